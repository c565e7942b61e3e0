"""What the tests of the page's doors share."""

import pytest

from lora_studio.ui.api import dispatcher
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import curation


@pytest.fixture
def ask(projects, project):
    """Call a function as the page does; its value, or the error as the page gets it."""
    call = dispatcher(curation.functions(Studio(projects)))

    def asked(name, **arguments):
        answer = call({"name": f"curation.{name}", "arguments": {"project": project.slug, **arguments}})
        return answer["value"] if "value" in answer else answer["error"]

    return asked
