"""`lora-studio gather` with its further sources, as a user's shell sees it."""

import json
import subprocess
from pathlib import Path

import pytest

from lora_studio.core.project import Plan, Project
from tests.test_cli import answer, studio


@pytest.fixture
def project(projects: Path) -> Project:
    return Project.create(projects, Plan(name="x"))


def test_origins_are_given_with_the_import_and_later_and_become_credits(project, picture_folder):
    folder = picture_folder(2)
    (folder / "no.png").write_text("no picture")
    words = ("--provenance", "author=Ada", "--provenance", "licence=CC0-1.0")
    found = answer("gather", "x", folder, *words, projects=project.root)
    assert found["added"] == 2 and found["refused"][0].keys() == {"file", "reason"}
    listed = answer("gather", "x", "--quarantine", projects=project.root)["quarantine"]
    assert [row["name"] for row in listed] == ["no.png"]
    assert answer("gather", "x", "--provenance", "author=Bob", projects=project.root)["changed"] == 2
    (row,) = answer("gather", "x", "--credits", projects=project.root)["credits"]
    assert (row["author"], row["licence"], row["count"]) == ("Bob", "CC0-1.0", 2)


def test_another_project_is_a_source(project, picture_folder):
    other = Project.create(project.root, Plan(name="other"))
    answer("gather", other.slug, picture_folder(3), projects=project.root)
    assert answer("gather", "x", "--from-project", "other", projects=project.root)["added"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to gather from"),
        (["--video"], "paths: is empty"),
        (["--booru", "nosuch", "--tags", "hat"], "site"),
        (["--booru", "danbooru"], "tags: is empty"),
        (["--from-project", "x"], "this very project"),
        (["--from-project", "a", "--dataset", "b/c"], "more than one kind"),
        (["--provenance", "autor=Ada"], "autor"),
        (["--urls", "/no/such/list"], "/no/such/list"),
        (["--background", "blue"], "background"),
    ],
)
def test_what_cannot_be_gathered_is_said_in_one_line(project, words, said):
    result: subprocess.CompletedProcess[str] = studio("gather", "x", *words, "--json", projects=project.root)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert said in json.loads(result.stdout)["error"]


def test_a_background_is_chosen_by_a_word(project):
    assert answer("gather", "x", "--background", "#102030", projects=project.root) == {"background": "#102030"}
    assert project.plan.background == "#102030"
