"""A run that is killed, told to end, or has no disk left at any moment: what is there is whole, and it goes on to the
very weights of an undisturbed run.

Each run is a fork of this process: as real as any, without the seconds that importing torch takes.
"""

import json
import os
import re
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lora_studio.core import jobs
from lora_studio.core.jobs import JobContext, Jobs
from lora_studio.engine import checkpoint
from lora_studio.engine import state as states
from lora_studio.engine.config import TrainJob
from lora_studio.engine.distributed import World, run_world
from lora_studio.engine.state import newest_state
from lora_studio.engine.train import train
from tests.engine.conftest import Recorder, settings
from tests.tiny import make_dataset

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]
Weights = dict[str, Tensor]
TARGET = "lora_studio.engine.train:train"
FROZEN_TEXT = {"optimizer__text_encoder_lr": 0, "data__shuffle_tags": False}


@pytest.fixture(scope="module", autouse=True)
def _one_by_one() -> Iterator[None]:
    """Pictures are encoded one by one, so that there is something to interrupt, and to the same last bit each time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lora_studio.engine.cache.ENCODE_PIXELS", 1)
        yield


@pytest.fixture(scope="module")
def straight(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Weights]:
    """A job of 3 epochs of 2 steps, and the weights that it ends with."""
    folder = tmp_path_factory.mktemp("straight")
    job = TrainJob(
        settings=settings(run__epochs=3, **FROZEN_TEXT), base=str(base), dataset=str(make_dataset(folder / "data")),
        cache=str(folder / "cache"), name="zorbi", trigger="zorbi",
    ).to_dict()  # fmt: skip
    return job, trained(job, folder / "run")


def trained(job: dict[str, Any], folder: Path) -> Weights:
    train(job, Recorder(folder))
    found, damaged = newest_state(folder / "state")
    assert found is not None and not damaged
    return found.weights


def in_child(work: Callable[[], Any]) -> int:
    """Do `work` in a process of its own; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def assert_goes_on(straight: tuple[dict[str, Any], Weights], job: dict[str, Any], folder: Path) -> None:
    """All that is there is whole, and resuming leads to the very same weights."""
    for path in folder.glob("checkpoints/[!.]*"):
        assert all(value.isfinite().all() for value in load_file(path).values())
    assert newest_state(folder / "state")[1] == []
    after = trained({**job, "resume": True}, folder)
    assert set(after) == set(straight[1]) and all(torch.equal(after[name], straight[1][name]) for name in after)
    assert len(list(folder.glob("checkpoints/[!.]*"))) == 3


class Watched(JobContext):
    """Does something as soon as what was told fulfils a condition."""

    def __init__(self, folder: Path, when: Callable[[list[dict[str, Any]]], bool], then: Callable[[], Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        told: list[dict[str, Any]] = []

        def listen(event: dict[str, Any]) -> None:
            told.append(event)
            if when(told):
                then()

        super().__init__(folder, listen)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count(told: list[dict[str, Any]], event_name: str, **values: Any) -> int:
    return sum(event["event"] == event_name and all(event[k] == v for k, v in values.items()) for event in told)


# --- SIGKILL --------------------------------------------------------------------------------------------------------

MOMENTS: dict[str, Callable[[list[dict[str, Any]]], bool]] = {
    "loading": lambda told: count(told, "Phase", name="load") > 0,
    "encoding pictures": lambda told: count(told, "Progress", text="pictures", done=2) > 0,
    "encoding captions": lambda told: count(told, "Progress", text="captions") > 0,
    "before the first step": lambda told: count(told, "Validation") > 0,
    "stepping": lambda told: count(told, "Step") == 3,
    "between the LoRA and the state": lambda told: count(told, "FileWritten", kind="checkpoint") == 2,
    "after the state": lambda told: count(told, "FileWritten", kind="state") == 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(moment: str, straight: Any, tmp_path: Path) -> None:
    job, folder = {**straight[0], "cache": str(tmp_path / "cache")}, tmp_path / "run"
    assert in_child(lambda: train(job, Watched(folder, MOMENTS[moment], die))) == -signal.SIGKILL
    assert_goes_on(straight, job, folder)


WRITES: dict[str, tuple[Any, str]] = {
    "the LoRA is written and has no name yet": (checkpoint, "_read_back"),
    "the state's files are written and have no name yet": (states, "_put_in_place"),
    "the state lies half written": (states, "sha256_file"),
    "the old states are to go": (shutil, "rmtree"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_run_killed_while_it_saves_takes_nothing_half_written_for_whole(
    write: str, straight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = WRITES[write]
    real, calls, folder = getattr(owner, name), [], tmp_path / "run"
    last = 3 if owner is shutil else 2 if name != "sha256_file" else 7  # of the second save; four sums are in the first

    def deadly(*arguments: Any, **named: Any) -> Any:
        inside = str(folder) in str(arguments[0])
        calls.append(inside)
        if inside and sum(calls) == last:
            die()
        return real(*arguments, **named)

    def work() -> None:
        monkeypatch.setattr(owner, name, deadly)
        train(straight[0], Recorder(folder))

    assert in_child(work) == -signal.SIGKILL
    assert_goes_on(straight, straight[0], folder)


# --- SIGTERM --------------------------------------------------------------------------------------------------------


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def started(folder: Path, config: dict[str, Any]) -> int:
    """A job's process as Jobs.start makes it; its pid."""
    jobs.create(folder, TARGET, config, "Training")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(jobs._child(folder))
        finally:
            os._exit(2)
    return pid


def test_sigterm_saves_and_stops_as_the_command_does(straight: Any, tmp_path: Path) -> None:
    folder, root = tmp_path / "project/runs/a", Jobs(tmp_path)
    job = {**straight[0], "settings": settings(run__epochs=5000, **FROZEN_TEXT).to_dict()}
    pid = started(folder, job)
    until(lambda: count(root.get(folder).events()[0], "Step") > 2)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    record = root.get(folder)
    reached = record.summary["steps"]
    assert record.state == "stopped" and 2 < reached < 10_000
    assert (folder / f"state/{reached:08d}").is_dir()
    if reached % 2:
        assert (folder / f"checkpoints/zorbi-step{reached:08d}.safetensors").exists()


def test_sigterm_in_the_queue_stops_before_it_began(straight: Any, tmp_path: Path) -> None:
    from filelock import FileLock

    folder, root = tmp_path / "a", Jobs(tmp_path)
    folder.mkdir()
    with FileLock(folder / ".gpu.lock"):
        pid = started(folder, straight[0])
        until(lambda: root.get(folder).events()[0])
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert root.get(folder).state == "stopped" and not (folder / "state").exists()


def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    def work() -> None:
        job = JobContext(tmp_path)
        jobs._stop_when_told(job)
        os.kill(os.getpid(), signal.SIGTERM)
        assert job.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)

    assert in_child(work) == -signal.SIGTERM
    assert JobContext(tmp_path).should_stop()  # all processes of the job read it


def end_oneself(world: World) -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    return "still here"


def test_the_processes_of_a_shared_run_leave_sigterm_to_their_parent() -> None:
    assert run_world(end_oneself, (), 1) == "still here"


# --- a full disk ----------------------------------------------------------------------------------------------------


def limit_files(size: int) -> None:
    """From now on no file of this process can grow beyond `size` bytes: as if the disk were full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


FULL: dict[str, tuple[Callable[[list[dict[str, Any]]], bool], int, str]] = {
    "while caching": (lambda told: count(told, "Progress", text="pictures") == 1, 1500, "Cannot write .*shard-"),
    "while saving a LoRA": (lambda told: count(told, "Step") == 3, 9000, "Cannot write .*zorbi-000002.safetensors"),
    "while saving a state": (
        lambda told: count(told, "FileWritten", kind="checkpoint") == 2, 9000, "The state of step 4 cannot be written",
    ),
    "for anything": (lambda told: count(told, "Step") == 3, 1000, "The disk is full"),
}  # fmt: skip


@pytest.mark.parametrize("moment", FULL)
def test_a_disk_that_is_full_is_told_and_everything_earlier_is_whole(
    moment: str, straight: Any, tmp_path: Path
) -> None:
    when, size, told = FULL[moment]
    folder = tmp_path / "run"
    job = {**straight[0], "cache": str(tmp_path / "cache")}

    def work() -> None:
        jobs.create(folder, TARGET, job, "Training")
        error = jobs._perform(Watched(folder, when, lambda: limit_files(size)), TARGET, job)
        assert error is not None

    assert in_child(work) == 0
    record = Jobs(tmp_path).get(folder)
    assert record.state == "failed"
    assert re.search(told, record.error), record.error
    assert "Free some" in record.remedy
    assert_goes_on(straight, job, folder)
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    assert [event["step"] for event in map(_json, lines) if event.get("event") == "Step"][-1] == 6


def _json(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}  # torn when the disk was full


def test_an_event_after_a_torn_line_is_not_lost(tmp_path: Path) -> None:
    from lora_studio.core.progress import Note

    (tmp_path / "events.jsonl").write_bytes(b'{"event": "Note"}\n{"event": "St')
    job = JobContext(tmp_path)
    job.report(Note("first"))
    job.report(Note("second"))
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(lines) == 4 and [json.loads(line)["text"] for line in lines[2:]] == ["first", "second"]


# --- a power cut ----------------------------------------------------------------------------------------------------


def test_what_is_renamed_is_on_the_disk_before_and_its_name_after(
    straight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every file and folder that a run renames: its content is synced first, then the folder that holds the name."""
    real, synced = (os.fsync, os.replace), []
    waiting: dict[int, str] = {}
    named: list[str] = []

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        synced.append(found.st_ino)
        if stat.S_ISDIR(found.st_mode):
            waiting.pop(found.st_ino, None)
        real[0](handle)

    def replace(source: Any, target: Any) -> None:
        source, target = Path(source), Path(target)
        inside = [source, *source.iterdir()] if source.is_dir() else [source]
        late = [path.name for path in inside if path.stat().st_ino not in synced]
        assert not late, f"{target.name} gets its name before {late} are on the disk"
        real[1](source, target)
        waiting[target.parent.stat().st_ino] = target.name
        named.append(target.name)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    train({**straight[0], "cache": str(tmp_path / "cache")}, Recorder(tmp_path / "run"))
    assert not waiting, f"the names of {list(waiting.values())} may not be on the disk"
    assert {"00000006", "zorbi-000003.safetensors", "index.json", "settings.json"} <= set(named)
    assert any(name.startswith("shard-") for name in named)
    assert named.index("zorbi-000001.safetensors") < named.index("00000002")
