"""A real studio in a process of its own, and a real browser before it."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.jobs import Jobs

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERVE = "import sys; from pathlib import Path; from lora_studio.ui.server import serve; " + (
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]), browser=False)"
)


@dataclass
class Studio:
    """A running server; `stop` and `start` it again on the same port and folder."""

    projects: Path
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        command = [sys.executable, "-c", SERVE, str(self.projects), str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        end = time.monotonic() + 120
        while not re.search(rb"is ready at", self.log.read_bytes()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, "the studio did not start"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it, hard: what runs must go on without it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.log.write_bytes(b"")


@dataclass
class Watch:
    """What the browser saw that should not be there."""

    faults: list[str] = field(default_factory=list)

    def reload(self, page: Any) -> None:
        """Load a page again; what gradio says of the connections that this cuts is no fault."""
        before = list(self.faults)
        page.reload()
        page.wait_for_timeout(500)
        cut = ("AbortError", "Connection errored out", "ERR_ABORTED", "ERR_INCOMPLETE_CHUNKED", "network error")
        self.faults[:] = before + [new for new in self.faults[len(before) :] if not any(word in new for word in cut)]

    def on(self, page: Any) -> None:
        """Listen to a page."""
        page.on("console", lambda message: message.type == "error" and self.faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("response", lambda r: r.status >= 400 and self.faults.append(f"{r.status}: {r.url}"))
        page.on("request", lambda r: r.url.split(":")[0] in ("http", "https", "ws", "wss") and self._inside(r.url))

    def _inside(self, url: str) -> None:
        if not url.startswith("http://127.0.0.1:"):
            self.faults.append(f"outside request: {url}")


@contextmanager
def serving(projects: Path, log: Path) -> Iterator[Studio]:
    """A studio on a free port with this projects folder; at the end it and its jobs are stopped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Studio(projects, port, log)
    running.start()
    yield running
    running.stop()
    for job in Jobs(projects).all():
        if job.is_alive:
            Jobs(projects).command(job.folder, "stop")


@pytest.fixture
def studio(projects: Path, tmp_path: Path) -> Iterator[Studio]:
    """A studio of its own with an empty projects folder."""
    with serving(projects, tmp_path / "server.log") as running:
        yield running


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Chromium. Not skipped in silence: without one the test fails and says what to install."""
    if os.environ.get("LORA_STUDIO_NO_BROWSER"):
        pytest.skip("LORA_STUDIO_NO_BROWSER is set")
    try:
        path = request.getfixturevalue("chromium_path")
    except pytest.skip.Exception as missing:
        pytest.fail(f"{missing.msg}; or set LORA_STUDIO_NO_BROWSER=1 to leave the browser tests out")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def watch() -> Watch:
    """A fresh list of faults."""
    return Watch()
