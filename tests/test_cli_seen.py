"""`lora-studio seen`: what it answers. Called within this process, as tests/test_cli_curate.py does."""

from itertools import permutations
from pathlib import Path

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, conception, gathering, training
from tests.conftest import draw_picture
from tests.test_cli_curate import answer, studio


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A project with a short caption, a long one and none, on the tiny base."""
    home = tmp_path_factory.mktemp("seen")
    project = conception.create(home / "p", Plan(name="Zorbi", trigger="zorbi", base=str(tiny_base)))
    training.save_current(
        project, training.current(project).with_changes({"data.resolution": 64, "data.bucket_min": 64})
    )
    (home / "pile").mkdir()
    for seed in range(3):
        (home / "pile" / f"{seed}.png").write_bytes(draw_picture(seed))
    gathering.gather(project, [home / "pile"])
    captioning.set_text(project, 1, "hat, smile, <b>")
    captioning.set_text(project, 2, ", ".join(f"number {number}" for number in range(60)))
    return home / "p"


def test_tokens_are_listed_and_what_is_cut_off_is_shown(root: Path) -> None:
    found = answer("seen", "tokens", "zorbi", projects=root)
    assert found["encoders"] == ["text_encoder"] and found["limit"] == 225
    short, long, none = found["captions"]
    assert short["tokens"] == [len("zorbi,hat,smile,<b>")] and none["text"] == "zorbi"
    assert long["over"] == long["tokens"][0] - 225 and long["text"].endswith(long["lost"]) and long["lost"]
    (only,) = answer("seen", "tokens", "zorbi", "--over", projects=root)["captions"]
    assert only == long
    told = studio("seen", "tokens", "zorbi", projects=root).stdout
    assert f"{long['over']} tokens are not read: … {long['lost'][:20]}" in told and "3 captions, 1 longer" in told


def test_captions_are_shown_as_they_are_trained(root: Path) -> None:
    found = answer("seen", "sample", "zorbi", "--count", 30, projects=root)["samples"]
    assert len(found) == 30 and all(one["text"].startswith("zorbi") for one in found)
    orders = {", ".join(["zorbi", *tags]) for tags in permutations(["hat", "smile", "<b>"])}
    assert {one["text"] for one in found if one["id"] == 1} <= orders and len({one["text"] for one in found}) > 5
    assert found[0]["ids"]["text_encoder"] and len(found[1]["ids"]["text_encoder"]) == 225 and found[1]["cut"]
    only = answer("seen", "sample", "zorbi", "--where", "id = 3", "--count", 2, "--seed", 5, projects=root)["samples"]
    assert [(one["id"], one["epoch"], one["text"]) for one in only] == [(3, 1, "zorbi"), (3, 2, "zorbi")]
    assert "2.png, epoch 1: zorbi" in studio("seen", "sample", "zorbi", projects=root).stdout
    refused = studio("seen", "sample", "zorbi", "--where", "id = 99", projects=root)
    assert refused.returncode == 1 and "no picture to show" in refused.stderr


def test_the_trigger_is_judged_and_tried_on_the_base(root: Path) -> None:
    assert answer("seen", "trigger", "zorbi", projects=root)["level"] == "ok"
    common = studio("seen", "trigger", "zorbi", "--word", "smile", projects=root).stdout
    assert "smile is a common word" in common and "smile is a common tag" in common
    project = Project.open(root, "zorbi")
    project.save_plan(Plan.load({**project.plan.to_dict(), "trigger": "zorbi"}))
    told = studio("seen", "trigger", "zorbi", "--react", "--json", projects=root)
    assert told.returncode == 0, told.stderr
    assert '"reaction": {' in told.stdout and '"word": "zorbi"' in told.stdout
