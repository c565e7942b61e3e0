import pytest

from tests.tagger.tiny_tagger import build


@pytest.fixture(scope="session")
def tiny_tagger(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tagger"))
