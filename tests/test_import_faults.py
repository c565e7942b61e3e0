"""An import that is killed, or whose disk is full: the project opens, nothing in it is half there, and importing again
completes it. The kills are real, at every kind of instant of writing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_studio.core import images
from lora_studio.core.files import remove_leftovers
from lora_studio.core.jobs import Jobs
from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.judge import measures
from lora_studio.steps import gathering
from tests.conftest import draw_picture

COUNT = 6
DYING = """
import os, signal, sys, tempfile
from pathlib import Path
from lora_studio.core import looks, project as store
from lora_studio.core.project import Project
from lora_studio.steps import gathering, importing

importing.BATCH = 2
left = int(sys.argv[1])

def dying(function):
    def call(*words, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **named)
    return call

for owner, name in ((os, "fsync"), (os, "replace"), (tempfile, "mkstemp"), (store, "_touch"), (looks.Looks, "put"),
                    (store.Project, "quarantine"), (gathering.json, "dumps")):
    setattr(owner, name, dying(getattr(owner, name)))
gathering.gather(Project.open(Path(sys.argv[2]), "x"), [Path(sys.argv[3])])
print(-left)
"""


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    folder = tmp_path / "pile"
    folder.mkdir()
    for seed in range(COUNT):
        (folder / f"{seed}.png").write_bytes(draw_picture(seed))
        (folder / f"{seed}.txt").write_text(f"zorbi, {seed}")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def run(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])


def assert_whole(project: Project) -> int:
    """Whatever is in the list is there as a whole; returns how many."""
    found = Project.open(project.root, project.slug).images()
    measured = Looks(project.folder).get(measures.KEY, [image.sha256 for image in found])
    for image in found:
        assert images.decode(project.original_path(image)).size == (image.width, image.height)
        thumb = images.decode(project.folder / "thumbs" / f"{image.sha256}.webp")
        assert thumb.size == (min(256, image.width), min(256, image.height))
        assert image.caption == f"zorbi, {image.name[0]}" and image.sha256 in measured
    return len(found)


def test_an_import_killed_at_any_instant_is_whole_and_goes_on(projects, pile):
    Project.create(projects, Plan(name="x"))
    whole = run(DYING, 0, projects, pile)
    steps = int(whole.stdout)
    assert steps > 6 * COUNT, whole.stderr
    Project.open(projects, "x").trash()
    partly, before = set(), {path: path.read_bytes() for path in pile.iterdir()}
    for step in range(1, steps + 1, 7):
        project = Project.create(projects, Plan(name="x"))
        assert run(DYING, step, projects, pile).returncode == -signal.SIGKILL
        taken = assert_whole(project)
        partly.add(taken)
        result = gathering.gather(project, [pile])
        assert (result.added, result.already, len(result.refused)) == (COUNT - taken, taken, 1)
        assert assert_whole(project) == COUNT
        project.trash()
    assert {0, 2, 4} <= partly, "no kill came in the middle"
    assert {path: path.read_bytes() for path in pile.iterdir()} == before


def test_a_killed_job_left_a_table_and_the_next_one_goes_on(projects, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for seed in range(150):
        (folder / f"{seed}.png").write_bytes(draw_picture(seed, (200, 200)))
    project, jobs = Project.create(projects, Plan(name="x")), Jobs(projects)
    job = gathering.start(project, jobs, [folder])
    end = time.monotonic() + 90
    while not gathering.results(job.folder)[0]:
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
    os.kill(jobs.get(job.folder).pid, signal.SIGKILL)
    end = time.monotonic() + 90
    while jobs.get(job.folder).state != "interrupted":
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    told = gathering.results(job.folder)[0]
    ids = {image.id for image in project.images()}
    assert told and {line["id"] for line in told} <= ids
    again = jobs.wait(gathering.start(project, jobs, [folder]).folder, 120)
    assert again.state == "done", again.error
    assert again.summary["already"] == len(ids) and again.summary["added"] == 150 - len(ids)
    assert len(gathering.results(again.folder)[0]) == 150


FULL = """
import json, resource, signal, sys
from pathlib import Path
from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.steps import gathering, importing

importing.BATCH = 2
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
try:
    gathering.gather(Project.open(Path(sys.argv[2]), "x"), [Path(sys.argv[3])])
except UserError as error:
    print(json.dumps([error.message, error.remedy]))
"""


@pytest.mark.parametrize("size", [300, 9000, 100_000])
def test_a_full_disk_ends_the_import_with_the_remedy_and_loses_nothing(projects, pile, size):
    """A limit for files stands for the disk: too small for pictures, for the database, or for the last picture only."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pile / "9.png")
    (pile / "9.txt").write_text("zorbi, 9")
    project = Project.create(projects, Plan(name="x"))
    message, remedy = json.loads(run(FULL, size, projects, pile).stdout)
    assert "Free" in remedy and message
    assert not [path for path in project.folder.rglob(".new-*.part")]
    taken = assert_whole(project)
    assert taken == (COUNT if size == 100_000 else 0)
    assert gathering.gather(project, [pile]).added == COUNT + 1 - taken
    assert assert_whole(project) == COUNT + 1


def test_what_a_kill_left_behind_is_removed_by_a_later_import_and_not_what_is_being_written(projects, pile):
    project = Project.create(projects, Plan(name="x"))
    originals = project.folder / "originals"
    originals.mkdir()
    old, new = originals / ".new-old.part", originals / ".new-new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    gathering.gather(project, [pile])
    assert not old.exists() and new.exists()
    remove_leftovers(originals, -1)
    assert not new.exists() and len(list(originals.iterdir())) == COUNT
