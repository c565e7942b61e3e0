"""`lora-studio tag`: what it answers and does. Most of it within this process; a stop as a shell sends it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_studio.core.jobs import Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, gathering, tagging
from tests.conftest import draw_picture
from tests.tagger.tiny_tagger import build
from tests.test_cli_curate import answer, studio
from tests.test_faults import wait_for


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> SimpleNamespace:
    """Six pictures, and what a dry run said of them."""
    home = tmp_path_factory.mktemp("tag ü")
    tagger = build(home / "tagger")
    project = Project.create(home / "p", Plan(name="a", trigger="zorbi", tagger=str(tagger)))
    (home / "pile").mkdir()
    for seed in range(6):
        (home / "pile" / f"{seed}.png").write_bytes(draw_picture(seed))
    gathering.gather(project, [home / "pile"])
    shown = answer("tag", "a", "--dry-run", "--threshold", "0.4", projects=home / "p")
    return SimpleNamespace(projects=home / "p", shown=shown)


@pytest.fixture
def projects(walk) -> Path:
    return walk.projects


@pytest.fixture
def project(projects) -> Project:
    """As it was before the first command."""
    opened = Project.open(projects, "a")
    while opened.undo():
        pass
    return opened


def texts(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def test_a_dry_run_shows_what_would_change_and_the_same_answers_are_written_afterwards(walk, projects, project):
    shown = walk.shown
    assert shown["would_change"] == 6 and texts(project) == [""] * 6 and project.undo_label() is None
    assert answer("tag", "a", "--resume", projects=projects) == {"written": 6, "skipped": 0, "failed": []}
    assert texts(project) == [one["after"] for one in shown["changes"]]
    assert all(text.startswith("zorbi, ") for text in texts(project))
    project.undo()
    assert texts(project) == [""] * 6


def test_for_people_a_dry_run_shows_the_first_changes_by_name(projects, project):
    told = studio("tag", "a", "--resume", "--dry-run", projects=projects)
    assert told.returncode == 0 and told.stdout.startswith("6 captions would change, 0 stay, 0 have no answer.")
    assert "  0.png\n  - \n  + zorbi, " in told.stdout and "... and 1 more" in told.stdout
    assert "lora-studio tag a --resume --mode append" in told.stdout


@pytest.mark.parametrize("mode", ["empty", "append", "replace", "union"])
def test_each_way_to_merge_is_one_option(projects, project, mode):
    captioning.set_text(project, 1, "zorbi, mine")
    found = answer("tag", "a", "--resume", "--mode", mode, projects=projects)
    first = texts(project)[0].split(", ")
    assert first[0] == "zorbi" and ("mine" in first) == (mode != "replace")
    assert found["written"] == (5 if mode == "empty" else 6)
    assert {"empty": len(first) == 2, "append": first[1] == "mine", "union": first[-1] == "mine"}.get(mode, True)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--model", "starter", "--resume"], "keeps its settings"),
        (["--model", "/no/where"], "/no/where"),
        (["--model", "starter", "--model", "starter"], "named twice"),
        (["--set", "treshold=1"], "did you mean threshold"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(projects, project, words, part):
    before = sorted((project.folder / "jobs").iterdir())
    told = studio("tag", "a", *words, projects=projects)
    assert told.returncode == 1 and part in told.stderr
    assert sorted((project.folder / "jobs").iterdir()) == before


def test_a_stop_changes_no_caption_and_keeps_what_is_done(projects, project):
    jobs, held = Jobs(projects), project.original_path(project.images()[4])
    data = held.read_bytes()
    held.unlink()
    os.mkfifo(held)  # the tagger waits at the fifth picture until somebody writes into it
    words = ["tag", "a", "--set", "batch_size=1", "--json", "--projects", str(projects)]
    shell = subprocess.Popen([sys.executable, "-m", "lora_studio", *words], stdout=-1, stderr=-1, text=True)
    wait_for(lambda: (job := tagging.last(project, jobs)) and len(tagging.results(job.folder)) == 4)
    shell.send_signal(signal.SIGINT)
    wait_for(lambda: tagging.last(project, jobs).state == "stopping")
    held.write_bytes(data)
    out, err = shell.communicate(timeout=120)
    held.unlink()
    held.write_bytes(data)
    found = json.loads(out)
    assert shell.returncode == 130 and "--resume" in err, err
    assert found["total"] == 6 and found["tagged"] in (4, 5) and texts(project) == [""] * 6
    assert answer("tag", "a", "--resume", projects=projects)["written"] == 6
