"""`lora-studio words`: what it answers and does."""

from pathlib import Path

import pytest

from lora_studio.core.project import Plan, Project
from tests.core.test_project import add
from tests.test_cli_curate import answer, studio

COLOURS = ("red", "green", "blue", "yellow", "pink", "orange", "white")


@pytest.fixture
def project(projects: Path) -> Project:
    project = Project.create(projects, Plan(name="Zorbi", trigger="zorbi", defining=("green hair",)))
    for colour in COLOURS:
        image = add(project, colour)
        with project.edit("Caption") as edit:
            edit.set(image, caption=f"zorbi, green hair, smlie, {colour} background")
    return project


def captions(project: Project) -> set[str]:
    """The captions without the colour, in which alone they differ."""
    return {image.caption.replace(f"{image.name.removesuffix('.png')} b", "_ b") for image in project.images()}


def test_the_table_counts(project, projects):
    rows = answer("words", "table", "zorbi", projects=projects)["tags"]
    assert rows[0] == {"tag": "green hair", "count": 7, "share": 1.0, "category": "hair colour", "with_trigger": 1.0}
    text = studio("words", "table", "zorbi", "--most", "2", projects=projects).stdout
    assert "green hair (hair colour)" in text and "8 more (--most 58)" in text


def test_a_check_tells_and_a_fix_mends(project, projects):
    (typo,) = [one for one in answer("words", "check", "zorbi", projects=projects)["problems"] if one["kind"] == "typo"]
    assert len(typo["ids"]) == 7 and typo["fix"] == {"do": "rename", "tags": ["smlie"], "new": "smile"}
    assert "Mend: --fix typo" in studio("words", "check", "zorbi", projects=projects).stdout
    tried = studio("words", "check", "zorbi", "--fix", "typo", "--dry-run", projects=projects)
    assert "7 captions would change" in tried.stdout and captions(project) == {"zorbi, green hair, smlie, _ background"}
    assert answer("words", "check", "zorbi", "--fix", "typo", projects=projects)["count"] == 7
    assert captions(project) == {"zorbi, green hair, smile, _ background"}


def test_a_kind_that_is_none_is_refused_with_those_there_are(project, projects):
    result = studio("words", "check", "zorbi", "--fix", "typos", projects=projects)
    assert result.returncode == 1 and "uncaptioned" in result.stderr


def test_what_is_absorbed_is_told_and_pruned(project, projects):
    found = answer("words", "absorbed", "zorbi", projects=projects)
    assert [(one["tag"], one["action"]) for one in found["proposals"]] == [("green hair", "prune"), ("smlie", "keep")]
    assert "--prune" in studio("words", "absorbed", "zorbi", projects=projects).stdout
    tried = answer("words", "absorbed", "zorbi", "--prune", "--dry-run", projects=projects)
    assert tried["count"] == 7 and project.plan.prune_tags == ()
    assert answer("words", "absorbed", "zorbi", "--prune", "--tag", "smlie", projects=projects)["count"] == 7
    assert captions(project) == {"zorbi, _ background"} and set(project.plan.prune_tags) == {"smlie", "green hair"}
    assert answer("words", "absorbed", "zorbi", "--prune", projects=projects)["count"] == 0


def test_charts_are_drawn_as_text(project, projects):
    text = studio("words", "charts", "zorbi", projects=projects).stdout
    assert "100 %  7" in text and "Of what the captions speak" in text and "██" in text
    assert answer("words", "charts", "zorbi", projects=projects)["pictures"] == 7


def test_a_project_without_captions_says_so(projects):
    Project.create(projects, Plan(name="Empty"))
    for command in ("table", "charts"):
        assert "No captions yet" in studio("words", command, "empty", projects=projects).stdout
    assert "tag the pictures first" in studio("words", "absorbed", "empty", projects=projects).stdout
