"""Bad input and sudden death: each bad thing is named, nothing is lost, and what was begun can be gone on with.

The kills are real: SIGKILL to real processes, at moments chosen to be the worst.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import TrainConfig
from lora_studio.steps import caption_edits, conception, gathering, tagging, training
from lora_studio.steps.caption_edits import CaptionEdit
from lora_studio.tagger.config import TagConfig
from tests.conftest import draw_picture

SHORT = {
    "data.resolution": 32,
    "data.bucket_step": 8,
    "data.bucket_min": 16,
    "data.bucket_max": 64,
    "data.batch_size": 2,
    "data.repeats": 1,
    "run.epochs": 12,
    "run.sample_every_epochs": 0,
    "adapter.rank": 2,
}


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """Good pictures and everything that people drop beside them."""
    folder = tmp_path / "pile"
    (folder / "sub folder").mkdir(parents=True)
    for seed in range(3):
        (folder / f"good {seed}.png").write_bytes(draw_picture(seed))
    (folder / "sub folder" / "grün.jpg").write_bytes(draw_picture(3, form="JPEG"))
    (folder / "cut off.png").write_bytes(draw_picture(4)[:300])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.png").write_text("this is no picture")
    (folder / "script.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    (folder / "dot.png").write_bytes(draw_picture(5, (4, 4)))
    return folder


def test_every_bad_picture_is_named_and_the_good_ones_are_in(projects, pile):
    project = Project.create(projects, Plan(name="x"))
    before = {path: path.read_bytes() for path in pile.rglob("*") if path.is_file()}
    result = gathering.gather(project, [pile])
    assert result.added == len(project.images()) == 4
    reasons = {one.file: one.reason for one in result.refused}
    assert set(reasons) == {"cut off.png", "empty.jpg", "notes.png", "script.png", "dot.png"}
    assert "damaged" in reasons["cut off.png"] and "empty" in reasons["empty.jpg"]
    assert "not a picture" in reasons["notes.png"] and "too small" in reasons["dot.png"]
    assert {path: path.read_bytes() for path in pile.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png"])
def test_a_zip_that_points_outside_writes_nothing_there(projects, tmp_path, name):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr(name, draw_picture(1))
        archive.writestr("good.png", draw_picture(2))
    project = Project.create(projects, Plan(name="x"))
    result = gathering.gather(project, [tmp_path / "pictures.zip"])
    assert result.added == 1 and [one.file for one in result.refused] == [name]
    assert "outside" in result.refused[0].reason
    assert not list(tmp_path.rglob("*evil*")) and not Path("/evil.png").exists()


def test_a_file_that_only_calls_itself_zip_and_an_empty_folder_are_named(projects, tmp_path):
    project = Project.create(projects, Plan(name="x"))
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    assert gathering.gather(project, [tmp_path / "broken.zip"]).refused[0].file == "broken.zip"
    (tmp_path / "nothing here").mkdir()
    with pytest.raises(UserError, match="nothing here"):
        gathering.gather(project, [tmp_path / "nothing here"])
    assert project.images() == []


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.canary,))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.safetensors", "model.SafeTensors"])
def test_a_pickle_is_refused_by_its_content_and_never_opened(projects, tmp_path, name):
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(UserError, match="pickle") as caught:
        conception.create(projects, Plan(name="x", base=str(tmp_path / name)))
    assert name in caught.value.message and caught.value.remedy
    assert not canary.exists() and Project.all(projects) == []


def make_text(folder: Path) -> Path:
    (folder / "model.safetensors").write_text("hello")
    return folder / "model.safetensors"


def make_cut(folder: Path) -> Path:
    (folder / "cut.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    return folder / "cut.safetensors"


def make_picture(folder: Path) -> Path:
    (folder / "picture.png").write_bytes(draw_picture(1))
    return folder / "picture.png"


def make_empty(folder: Path) -> Path:
    (folder / "empty folder").mkdir()
    return folder / "empty folder"


@pytest.mark.parametrize("make", [make_text, make_cut, make_picture, make_empty])
def test_a_base_that_is_no_model_is_named_before_anything_is_made(projects, tmp_path, make: Callable[[Path], Path]):
    path = make(tmp_path)
    with pytest.raises(UserError, match=path.name) as caught:
        conception.create(projects, Plan(name="x", base=str(path)))
    assert caught.value.remedy and Project.all(projects) == []


# --- sudden death -----------------------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def command(*words: str, projects: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "lora_studio", *words, "--projects", str(projects)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_an_import_killed_again_and_again_ends_complete(projects, tmp_path):
    pile = tmp_path / "pile"
    pile.mkdir()
    count = 150
    for seed in range(count):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed, (200, 200)))
    project = Project.create(projects, Plan(name="x"))
    for goal in (1, 20, 50):
        child = command("gather", "x", str(pile), projects=projects)
        wait_for(lambda goal=goal: len(project.images()) >= goal)
        kill(child.pid)
        child.wait()
        for image in project.images():  # whatever is in the list is whole
            assert images.decode(project.original_path(image)).size == (200, 200)
            assert project.thumb_path(image).stat().st_size > 0
    done = len(project.images())
    assert done < count, "every kill came too late to test anything"
    result = gathering.gather(project, [pile])
    assert (result.added, result.already, result.refused) == (count - done, done, [])


def test_a_bulk_edit_killed_in_the_middle_never_happened(projects, picture_folder):
    project = Project.create(projects, Plan(name="x"))
    gathering.gather(project, [picture_folder(20)])
    code = f"""
import os, signal
from pathlib import Path
from lora_studio.core.project import Project
project = Project.open(Path({str(projects)!r}), "x")
with project.edit("all") as edit:
    for image in project.images():
        edit.set(image.id, caption="half done")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1])
    assert ended.returncode == -signal.SIGKILL
    assert {image.caption for image in project.images()} == {""}
    assert project.undo_label() is None
    caption_edits.apply(project, None, CaptionEdit(do="add", tags=("whole",)))
    assert project.undo() is not None


def test_a_killed_tagging_changes_no_caption_and_can_be_started_again(projects, picture_folder):
    project, jobs = Project.create(projects, Plan(name="x", trigger="x")), Jobs(projects)
    gathering.gather(project, [picture_folder(12)])
    job = tagging.start(project, jobs, TagConfig())
    wait_for(lambda: jobs.get(job.folder).state == "running")
    kill(jobs.get(job.folder).pid)
    wait_for(lambda: jobs.get(job.folder).state == "interrupted")
    assert jobs.get(job.folder).error and jobs.get(job.folder).remedy
    assert {image.caption for image in project.images()} == {""}
    again = jobs.wait(tagging.start(project, jobs, TagConfig()).folder, 90)
    assert again.state == "done", again.error
    assert tagging.apply(project, again.folder)["written"] == 12


@pytest.fixture
def ready(
    projects: Path, picture_folder: Callable[..., Path], tiny_base: Path
) -> Iterator[tuple[Project, Jobs, TrainConfig]]:
    """A captioned project on the tiny base, and a short training that saves after every epoch."""
    project = Project.create(projects, Plan(name="x", trigger="x", base=str(tiny_base)))
    gathering.gather(project, [picture_folder(4, size=(40, 40))])
    caption_edits.apply(project, None, CaptionEdit(do="add", tags=("x", "red")))
    yield project, Jobs(projects), TrainConfig().with_changes({"base.model": str(tiny_base), **SHORT})
    for job in Jobs(projects).all():
        if job.is_alive:
            kill(job.pid)


def last_checkpoint(project: Project, run: str) -> dict:
    return load_file(
        project.folder / [found["file"] for found in training.checkpoints(project) if found["run"] == run][-1]
    )


def test_a_training_killed_while_saving_goes_on_to_the_very_same_lora(ready):
    project, jobs, config = ready
    straight = jobs.wait(training.start(project, jobs, config).folder, 120)
    assert straight.state == "done", straight.error
    job = training.start(project, jobs, config)
    run = job.folder
    for kills in (1, 2):
        wait_for(lambda kills=kills: len(list(run.glob("checkpoints/*"))) > 2 * kills)  # a name appears: it is saving
        kill(jobs.get(run).pid)
        wait_for(lambda: jobs.get(run).state == "interrupted")
        for found in training.checkpoints(project):  # whatever is offered is whole
            assert all(
                tensor.astype("float32").max() < 1e6 for tensor in load_file(project.folder / found["file"]).values()
            )
        training.resume(project, jobs, run.name)
    ended = jobs.wait(run, 120)
    assert ended.state == "done", ended.error
    expected, got = last_checkpoint(project, straight.folder.name), last_checkpoint(project, run.name)
    assert expected.keys() == got.keys()
    assert all((expected[name] == got[name]).all() for name in expected)
    view = training.view(project, jobs, run.name)
    assert view["step"] == view["total"] == 24 and len(view["points"]) == 24


def test_a_training_outlives_the_killed_program_that_started_it(ready):
    project, jobs, _ = ready
    words = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    parent = command("train", "x", *words, "--set", "run.epochs=20", projects=project.root)
    wait_for(lambda: any(job.state == "running" for job in jobs.all("x")))
    kill(parent.pid)
    parent.wait()
    (job,) = jobs.all("x")
    assert job.is_alive
    assert jobs.wait(job.folder, 120).state == "done"


def test_a_server_killed_during_a_training_finds_it_again(ready):
    project, jobs, config = ready
    words = ("studio", "--no-browser", "--port", "0")
    server = command(*words, projects=project.root)
    time.sleep(1)
    job = training.start(project, jobs, config.with_changes({"run.epochs": 60}))
    kill(server.pid)
    server.wait()
    assert jobs.get(job.folder).is_alive
    line = [sys.executable, "-m", "lora_studio", *words, "--projects", str(project.root)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as again:
        assert "ready at http://127.0.0.1:" in again.stderr.readline()
        jobs.command(job.folder, "stop")
        assert jobs.wait(job.folder, 60).state == "stopped"
        again.send_signal(signal.SIGINT)
    assert json.loads((job.folder / "job.json").read_text("utf-8"))["state"] == "stopped"


def test_a_power_cut_in_the_middle_of_an_event_line_loses_only_that_line(ready):
    project, jobs, config = ready
    job = jobs.wait(training.start(project, jobs, config).folder, 120)
    path = job.folder / "events.jsonl"
    whole = jobs.get(job.folder).events()[0]
    path.write_bytes(path.read_bytes() + b'{"event": "Step", "st')
    assert jobs.get(job.folder).events()[0] == whole
