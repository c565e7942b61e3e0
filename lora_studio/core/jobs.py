"""Jobs: work in a child process that outlives the page, the server and the command line.

A job is a folder with four files: `job.json` (the record), `events.jsonl` (what it told, append only), `commands`
(what it was told) and `log.txt`. The child waits for the one lock of the projects folder, so that one job has the
GPU at a time, whoever started it. To watch, adopt or judge a job is to read its folder.

`python -m lora_studio.core.jobs FOLDER` does the job of a folder. Started by torchrun or `accelerate launch` in several
processes, the first (RANK 0) keeps the record; the others work with it and leave the folder alone.
"""

import contextlib
import errno
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.progress import Event, Failed, Finished, Note, Paused, Phase, Resumed
from lora_studio.core.settings import SettingsError

WORDS = ("stop", "pause", "resume", "save", "sample")
ENDED = ("done", "stopped", "failed", "interrupted")
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # EDQUOT: the user's share of it is
_children: dict[Path, subprocess.Popen[bytes]] = {}  # kept so that ended children are reaped


@dataclass(frozen=True)
class Job:
    """A job's record as it stands on disk."""

    folder: Path
    id: str
    title: str
    target: str
    project: str
    state: str
    created: float
    started: float = 0.0
    ended: float = 0.0
    error: str = ""
    remedy: str = ""
    pid: int = 0
    pid_started: float = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether its process lives (same pid and same start time; a zombie is dead)."""
        return self.state not in ENDED and _lives(self.pid, self.pid_started)

    @property
    def config(self) -> dict[str, Any]:
        """What it was started with."""
        return json.loads((self.folder / "config.json").read_text("utf-8"))

    @property
    def summary(self) -> dict[str, Any]:
        """What its function returned; empty before the end."""
        if self.state not in ENDED:
            return {}
        last = [event for event in self.events()[0] if event["event"] == "Finished"]
        return last[-1]["summary"] if last else {}

    def events(self, since: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Events from byte offset `since`, and the offset to ask from next. A half-written last line waits."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return [], 0
        with path.open("rb") as file:
            file.seek(since)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        found = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # a line torn by a power cut is skipped, the rest is good
                found.append(json.loads(line))
        return found, since + len(whole)


class JobContext:
    """What a job's function holds: its folder, a way to report, and the commands given to it."""

    def __init__(self, folder: Path, listen: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.folder = folder
        self._listen = listen
        self._read = 0
        self._words: list[str] = []
        self._stop = False
        self._torn = True
        """Whether the last line of `events.jsonl` may be half a one, of a process that was killed or a full disk."""

    def report(self, event: Event) -> None:
        """Append the event to `events.jsonl`."""
        line = event.to_json()
        path = self.folder / "events.jsonl"
        begin = "\n" if self._torn and _is_torn(path) else ""
        self._torn = True
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{begin}{line}\n")
        self._torn = False
        if self._listen:
            self._listen(json.loads(line))

    def should_stop(self) -> bool:
        """Whether a stop was asked for."""
        self._poll()
        return self._stop

    def ask_to_stop(self) -> None:
        """What the command `stop` does, for a signal; written down so that all processes of the job read it."""
        self._stop = True
        with contextlib.suppress(OSError), (self.folder / "commands").open("a", encoding="utf-8") as file:
            file.write("stop\n")

    def commands(self) -> list[str]:
        """New commands since the last call, without stop: pause, resume, save, sample."""
        self._poll()
        words, self._words = self._words, []
        return words

    def wait_while_paused(self) -> None:
        """Block until resume or stop. Other commands given meanwhile are kept for `commands`."""
        self.report(Paused())
        _update(self.folder, state="paused")
        kept: list[str] = []
        while not self.should_stop():
            words = self.commands()
            kept += [word for word in words if word not in ("pause", "resume")]
            if "resume" in words:
                break
            time.sleep(0.1)
        self._words = kept
        _update(self.folder, state="stopping" if self._stop else "running")
        self.report(Resumed())

    def _poll(self) -> None:
        path = self.folder / "commands"
        try:
            if path.stat().st_size <= self._read:
                return
            with path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        self._read += len(data)
        for word in data.decode().split():
            if word == "stop":
                self._stop = True
            else:
                self._words.append(word)


class Follower(JobContext):
    """The context of a process that works beside the first one of its job: it tells nothing and obeys nobody."""

    def report(self, event: Event) -> None:
        """Leave it to the first process."""

    def should_stop(self) -> bool:
        """Only the first process reads the commands."""
        return False

    def commands(self) -> list[str]:
        """Only the first process reads the commands."""
        return []


class Jobs:
    """The jobs of all projects under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, folder: Path, target: str, config: dict[str, Any], title: str, project: str = "") -> Job:
        """Start `target` ("module:function") in a child process. Returns at once; the job may wait in the queue.

        A folder that holds an ended job is used again (that is how a run is resumed); a living one is refused.
        """
        self._create(folder, target, config, title, project)
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "LORA_STUDIO_ROOT": str(self.root)}
        with (folder / "log.txt").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "lora_studio.core.jobs", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )
        _children[folder] = child
        with contextlib.suppress(psutil.Error):  # ended already: the record tells
            if _read(folder)["state"] == "queued":
                _update(folder, pid=child.pid, pid_started=psutil.Process(child.pid).create_time())
        return self.get(folder)

    def prepare(self, folder: Path, target: str, config: dict[str, Any], title: str, project: str = "") -> Job:
        """As `start`, but nothing runs yet: the job looks like one that was stopped before it began, until somebody
        calls `python -m lora_studio.core.jobs FOLDER`, in one process or many."""
        self._create(folder, target, config, title, project)
        _update(folder, state="stopped")
        return self.get(folder)

    def _create(self, folder: Path, target: str, config: dict[str, Any], title: str, project: str) -> None:
        before = self._load(folder)
        if before is not None and before.is_alive:
            raise UserError(f"{before.title} is still {before.state}.", "Wait for it or stop it first.")
        create(folder, target, config, title, project)

    def get(self, folder: Path) -> Job:
        """The job in `folder`. Raises UserError when there is none."""
        job = self._load(folder)
        if job is None:
            raise UserError(
                f"There is no job in {folder.name}.", "Reload the page: it may have been moved to the trash."
            )
        return self._settle(job)

    def all(self, project: str = "") -> list[Job]:
        """All jobs, newest first; only those of one project when its slug is given."""
        pattern = f"{project or '*'}/*/*/job.json"
        found = [self._load(path.parent) for path in self.root.glob(pattern)]
        jobs = [self._settle(job) for job in found if job is not None]
        return sorted(jobs, key=lambda job: job.created, reverse=True)

    def command(self, folder: Path, word: str) -> None:
        """Tell a living job to stop, pause, resume, save or sample."""
        if word not in WORDS:
            raise UserError(f"{word} is not a command.", f"Known: {', '.join(WORDS)}.")
        job = self.get(folder)
        if not job.is_alive:
            raise UserError(f"{job.title} is not running ({job.state}).", "Start or resume it first.")
        with (folder / "commands").open("a", encoding="utf-8") as file:
            file.write(word + "\n")
        if word == "stop":
            _update(folder, state="stopping")

    def wait(self, folder: Path, timeout: float | None = None) -> Job:
        """Block until the job has ended. Raises TimeoutError."""
        end = None if timeout is None else time.monotonic() + timeout
        while (job := self.get(folder)).state not in ENDED:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"{job.title} has not ended after {timeout:.0f} s")
            time.sleep(0.05)
        return job

    def reconcile(self) -> list[Job]:
        """Adopt the living and mark the dead *interrupted*; returns the jobs that were marked."""
        return [job for job in self.all() if job.state == "interrupted"]

    @staticmethod
    def _load(folder: Path) -> Job | None:
        try:
            return Job(folder=folder, **_read(folder))
        except (OSError, ValueError, TypeError):
            return None

    @staticmethod
    def _settle(job: Job) -> Job:
        child = _children.get(job.folder)
        if child is not None and child.poll() is not None:
            del _children[job.folder]
        grace = job.pid == 0 and time.time() - job.created < 5  # between the record and the child's start
        if job.state in ENDED or grace or _lives(job.pid, job.pid_started):
            return job
        job = Jobs._load(job.folder) or job  # it may have ended between the two looks
        if job.state in ENDED:
            return job
        text = "Its process ended without a word: it was killed, or the machine went down or ran out of memory."
        changes = {"state": "interrupted", "ended": time.time(), "error": text, "remedy": "Resume it."}
        _update(job.folder, **changes)
        return replace(job, **changes)


def create(folder: Path, target: str, config: dict[str, Any], title: str, project: str = "") -> None:
    """Write a new record with state *queued* and the config beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands").unlink(missing_ok=True)
    write_text(folder / "config.json", json.dumps(config, indent=1))
    record = Job(folder, folder.name, title, target, project, "queued", time.time())
    write_text(folder / "job.json", json.dumps({k: v for k, v in asdict(record).items() if k != "folder"}))


def run_inline(
    folder: Path,
    target: str,
    config: dict[str, Any],
    title: str = "",
    listen: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The same job in this process, for the tests and small work. Returns its summary; lets its error through."""
    create(folder, target, config, title or target)
    _update(folder, pid=os.getpid(), pid_started=psutil.Process().create_time())
    job = JobContext(folder, listen)
    error = _perform(job, target, config)
    if error is not None:
        raise error
    return Jobs(folder.parent).get(folder).summary


def _perform(job: JobContext, target: str, config: dict[str, Any]) -> BaseException | None:
    """Call the target and write how it ended. This is the edge of the job's process: it catches everything."""
    _update(job.folder, state="running", started=time.time(), error="", remedy="")
    try:
        summary = _function(target)(config, job) or {}
    except BaseException as error:
        end_as_failed(job, error)
        return error
    state = "stopped" if job.should_stop() else "done"
    job.report(Finished(state, summary))
    _update(job.folder, state=state, ended=time.time())
    return None


def end_as_failed(job: JobContext, error: BaseException) -> None:
    """Write into the record that and why a job has failed."""
    failed = _explain(error)
    with contextlib.suppress(OSError):  # on a full disk the record is all there is room for
        job.report(failed)
        job.report(Finished("failed"))
    _update(job.folder, state="failed", ended=time.time(), error=failed.message, remedy=failed.remedy)


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    gc.disable()  # importing torch and diffusers makes no garbage: saves about a seventh of a job's start
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        gc.enable()


def _explain(error: BaseException) -> Failed:
    details = "".join(traceback.format_exception(error))[-4000:]
    if isinstance(error, UserError):
        return Failed(error.message, error.remedy)
    if isinstance(error, SettingsError):
        return Failed(" ".join(error.problems), "Change these settings and start again.")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failed(
            "The machine ran out of memory.",
            "Lower data.batch_size or data.resolution, or turn on run.gradient_checkpointing.",
            details,
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return Failed("The disk is full.", "Free some space, then resume: nothing already made is lost.", details)
    text = f"{type(error).__name__}: {error}".strip()[:500]
    return Failed(text, "This is a fault of the program: the log of the job holds the details for a report.", details)


def _queue(job: JobContext) -> FileLock | None:
    """Wait for the one lock of the projects folder; None when a stop came first."""
    root = os.environ.get("LORA_STUDIO_ROOT") or job.folder.resolve().parents[2]  # ROOT/PROJECT/runs/RUN
    lock = FileLock(Path(root) / ".gpu.lock")
    waiting = False
    while not job.should_stop():
        try:
            return lock.acquire(timeout=0.3).lock
        except Timeout:
            if not waiting:
                job.report(Phase("queue", "Waiting for another job to end"))
            waiting = True
    return None


def _child(folder: Path) -> int:
    if int(os.environ.get("RANK", "0")) > 0:
        return _follow(folder)
    _update(folder, pid=os.getpid(), pid_started=psutil.Process().create_time())
    job = JobContext(folder)
    _stop_when_told(job)
    lock = _queue(job)
    if lock is None:
        job.report(Note("Stopped before it began."))
        job.report(Finished("stopped"))
        _update(folder, state="stopped", ended=time.time())
        # the other processes wait for this one: only a failure makes torchrun end them
        return 1 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0
    error = _perform(job, *_work(folder))
    if error is not None:
        traceback.print_exception(error)
    lock.release()
    return 0 if error is None else 1


def _follow(folder: Path) -> int:
    """Do the same work beside the first process. What goes wrong is printed, for the record is not ours. A stop by
    SIGTERM is passed on to the first process, which ends all together."""
    target, config = _work(folder)
    follower = Follower(folder)
    _stop_when_told(follower)
    try:
        _function(target)(config, follower)
    except BaseException as error:  # the edge of the process
        traceback.print_exception(error)
        return 1
    return 0


def _work(folder: Path) -> tuple[str, dict[str, Any]]:
    """What a job's folder asks for: target and config."""
    return _read(folder)["target"], json.loads((folder / "config.json").read_text("utf-8"))


def _stop_when_told(job: JobContext) -> None:
    """SIGTERM (a shutdown, `kill`) saves and stops like the command; a second one ends the process at once."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        job.ask_to_stop()

    signal.signal(signal.SIGTERM, stop)


def _is_torn(path: Path) -> bool:
    """Whether the last line has no end."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:  # there is none, or it is empty
        return False


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "job.json").read_text("utf-8"))


def _update(folder: Path, **changes: Any) -> None:
    with FileLock(folder / ".record.lock"):
        record = _read(folder)
        if record["state"] in ENDED and changes.get("state") == "stopping":
            return  # it ended while the stop was on its way
        write_text(folder / "job.json", json.dumps({**record, **changes}))


def _lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid) if pid else None
        return (
            process is not None
            and abs(process.create_time() - started) < 1.0
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


if __name__ == "__main__":
    code = _child(Path(sys.argv[1]))
    if "RANK" in os.environ:
        # Threads of torch's process groups that take the interpreter's lock while it ends abort the process, and
        # torchrun would take that for a failure and begin all over. Everything is written: leave without that end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
