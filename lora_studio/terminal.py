"""What the terminal shows of long work: a progress bar, the notes of a job, and what Ctrl-C means while it runs."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from lora_studio.core.errors import UserError


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Bar:
    """Progress on one line of stderr; silent where that is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._first = 0

    def phase(self, text: str) -> None:
        """A new part of the work begins."""
        self._begun, self._first = time.monotonic(), 0
        self._draw(text)

    def update(self, done: int, total: int, text: str) -> None:
        """`done` of `total` things."""
        if done < self._first or not self._first:
            self._begun, self._first = time.monotonic(), max(done, 1)
        passed, made = time.monotonic() - self._begun, done - self._first
        left = f"{passed / made * (total - done):.0f} s left" if made > 0 and passed > 1 and done < total else ""
        filled = 24 * done // max(total, 1)
        self._draw(f"{'█' * filled}{'░' * (24 - filled)} {done}/{total}  {text}  {left}")

    def end(self) -> None:
        """Clear the line."""
        self._draw("", end="\r")

    def _draw(self, text: str, end: str = "") -> None:
        if self._shown:
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            print("\r" + text[:width].ljust(width), end=end, file=sys.stderr, flush=True)


def show(event: dict[str, Any], bar: Bar) -> None:
    """One event of a job on the bar; warnings and notes always as a line."""
    match event["event"]:
        case "Phase":
            bar.phase(event["text"])
        case "Progress" if event["text"] == "bytes":
            bar.update(event["done"] // 10**6, event["total"] // 10**6, "MB")
        case "Progress":
            bar.update(event["done"], event["total"], event["text"])
        case "Step":
            bar.update(event["step"], event["total"], f"epoch {event['epoch']}  loss {event['loss']:.4f}")
        case "Note":
            bar.end()
            say(event["text"])


def watch(jobs: Any, job: Any, look: Callable[[Any], None] = lambda job: None) -> Any:
    """Follow a job to its end. Ctrl-C asks it to stop, which keeps its work; a second one leaves it to itself.

    `look` is called with the job about ten times a second. Raises UserError when the job failed.
    """
    bar, offset, asked = Bar(), 0, False
    while True:
        try:
            events, offset = job.events(offset)
            for event in events:
                show(event, bar)
            job = jobs.get(job.folder)
            look(job)
            if job.state in ("done", "stopped", "failed", "interrupted"):
                break
            time.sleep(0.1)
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            bar.end()
            say("Stopping and keeping what is done. Ctrl-C again leaves at once.")
            with contextlib.suppress(UserError):  # it has just ended by itself
                jobs.command(job.folder, "stop")
    bar.end()
    if job.state in ("failed", "interrupted"):
        raise UserError(job.error, job.remedy)
    return job


@contextlib.contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C or a termination came; until the end of the block neither interrupts."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda *what: came.append(what[0])) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
