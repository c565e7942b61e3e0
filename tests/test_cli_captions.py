"""`lora-studio captions`: what it answers and does, called within this process."""

import json

import pytest

from lora_studio.core.project import Plan, Project
from tests.core.test_project import add
from tests.test_cli_curate import answer, studio


@pytest.fixture
def project(projects) -> Project:
    """Three pictures, the last rejected."""
    project = Project.create(projects, Plan(name="Zorbi", trigger="zorbi", prune_tags=("green hair",)))
    for name, caption in {"a": "zorbi, red_hat, smile", "b": "zorbi, smile", "c": "smile, green hair"}.items():
        add(project, f"#{ord(name):06x}", name=f"{name}.png", caption=caption, prose="A smile.")
    with project.edit("x") as edit:
        edit.set(3, decision="reject")
    return project


def texts(project: Project, field: str = "caption") -> list[str]:
    return list(project.texts(field).values())


def test_an_edit_is_shown_and_then_done_and_then_taken_back(project, projects):
    before = texts(project)
    words = ("captions", "edit", "zorbi", "rename", "smile", "--new", "grin")
    seen = answer(*words, "--dry-run", projects=projects)
    assert seen["dry_run"] and seen["count"] == 2 and texts(project) == before
    assert seen["changes"][1] == {"id": 2, "field": "caption", "before": "zorbi, smile", "after": "zorbi, grin"}
    shown = studio(*words, "--dry-run", projects=projects).stdout
    assert "a.png: -[smile] +[grin]" in shown and "2 captions would change." in shown
    assert answer(*words, projects=projects)["count"] == 2
    assert texts(project) == ["zorbi, red_hat, grin", "zorbi, grin", "smile, green hair"]
    assert answer("captions", "undo", "zorbi", projects=projects) == {"undone": "Replace smile by grin"}
    assert texts(project) == before
    assert answer("captions", "undo", "zorbi", "--redo", projects=projects) == {"redone": "Replace smile by grin"}


def test_the_scope_of_an_edit_is_the_filter_the_pictures_in_use_or_for_prune_all(project, projects):
    assert answer("captions", "edit", "zorbi", "add", "x", "--where", "red_hat", projects=projects)["count"] == 1
    assert answer("captions", "edit", "zorbi", "underscores", projects=projects)["count"] == 1
    assert answer("captions", "edit", "zorbi", "prune", projects=projects)["changes"][0]["id"] == 3
    assert texts(project) == ["zorbi, red hat, smile, x", "zorbi, smile", "smile"]
    words = ("text", "--prose", "--pattern", "smile", "--by", "grin", "--where", "id = 2")
    assert answer("captions", "edit", "zorbi", *words, projects=projects)["count"] == 1
    assert texts(project, "prose") == ["A smile.", "A grin.", "A smile."]


def test_find_lists_captions(project, projects):
    found = answer("captions", "find", "zorbi", "smile and count < 3", projects=projects)["pictures"]
    assert [one["id"] for one in found] == [2, 3] and found[0]["caption"] == "zorbi, smile"
    assert "1 of 3 pictures." in studio("captions", "find", "zorbi", "red_hat", projects=projects).stdout


def test_captions_go_out_are_changed_there_and_come_back(project, projects, tmp_path):
    out = tmp_path / "out"
    done = answer("captions", "export", "zorbi", out, projects=projects)
    assert (done["written"], done["kept"]) == (2, [])
    (out / "a.txt").write_text("zorbi, red hat", "utf-8")
    (out / "b.txt").write_text("zorbi, theirs", "utf-8")
    answer("captions", "edit", "zorbi", "add", "ours", "--where", "id = 2", projects=projects)
    offer = answer("captions", "watch", "zorbi", out, projects=projects)
    assert offer["count"] == 1 and [one["theirs"] for one in offer["conflicts"]] == ["zorbi, theirs"]
    shown = studio("captions", "watch", "zorbi", projects=projects).stdout
    assert "1 changed there, 1 changed here, 1 of them on both sides" in shown and "+[theirs]" in shown
    assert answer("captions", "export", "zorbi", out, projects=projects)["kept"] == ["a.txt", "b.txt"]
    assert answer("captions", "watch", "zorbi", out, "--take", projects=projects) == {"ids": [1], "conflicts_left": 1}
    assert texts(project)[:2] == ["zorbi, red hat", "zorbi, smile, ours"]
    done = answer("captions", "watch", "zorbi", out, "--take", "--conflicts", "theirs", projects=projects)
    assert done == {"ids": [2], "conflicts_left": 0} and texts(project)[1] == "zorbi, theirs"
    (out / "nobody.txt").write_text("x", "utf-8")
    (out / "c.txt").write_bytes("café".encode("cp1252"))
    seen = answer("captions", "import", "zorbi", out, "--dry-run", projects=projects)
    assert [one["after"] for one in seen["changes"]] == ["café"] and seen["unmatched"] == ["nobody.txt"]
    assert answer("captions", "import", "zorbi", out, projects=projects)["count"] == 1 and texts(project)[2] == "café"
    answer("captions", "watch", "zorbi", out, "--forget", projects=projects)
    assert answer("captions", "watch", "zorbi", projects=projects) == {"folders": []}


WRONG = {
    ("edit", "zorbi", "renam", "a"): "rename",
    ("edit", "zorbi", "rename", "a"): "needs a new name",
    ("edit", "zorbi", "regex", "--pattern", "("): "no regular expression",
    ("edit", "zorbi", "sort", "--where", "smlie"): "Close to it: smile",
    ("find", "zorbi", "/("): "(letter 1)",
    ("import", "zorbi", "nowhere"): "does not exist",
    ("watch", "zorbi", "--take"): "Which folder?",
    ("watch", "zorbi", "nowhere"): "Nothing was exported",
    ("undo", "nobody"): "There is no project",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_cannot_be_done_is_told_in_words(project, projects, words):
    result = studio("captions", *words, "--json", projects=projects)
    told = json.loads(result.stdout)
    assert result.returncode != 0 and WRONG[words] in f"{told['error']} {told['remedy']}"


def test_a_source_without_a_single_match_is_an_error(project, projects, tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "nobody.txt").write_text("x", "utf-8")
    result = studio("captions", "import", "zorbi", tmp_path / "z", projects=projects)
    assert result.returncode == 1 and "belongs to a picture" in result.stderr
