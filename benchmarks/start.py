"""From a fresh clone to a usable page, the second start, the first interaction, the installed size.

    python -m benchmarks.start [--port 7990]

Clones the repository as it is committed into an empty folder and runs what the README says, with its own projects
folder. "Usable" is the moment at which the page shows a button that can be clicked. Needs a Chromium.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.common import ROOT, machine, markdown, save

READY = "ready at "
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Studio:
    """A started launcher; `seconds` until its server answers."""

    def __init__(self, clone: Path, port: int, projects: Path) -> None:
        self.begun = time.perf_counter()
        command = [sys.executable, str(clone / "launch.py"), "--no-browser", "--port", str(port)]
        self.process = subprocess.Popen([*command, "--projects", str(projects)], stderr=subprocess.PIPE, text=True)
        self.address = self._wait()
        self.seconds = time.perf_counter() - self.begun
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def _wait(self) -> str:
        said = []
        for line in self.process.stderr:
            said.append(line)
            print(line, end="", file=sys.stderr)
            if READY in line:
                return line.partition(READY)[2].split()[0]
        raise SystemExit("The studio did not start:\n" + "".join(said[-20:]))

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


def visit(address: str) -> dict[str, float]:
    """Seconds from asking for the page to its first paint, to a button that can be clicked, and to its answer."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        begun = time.perf_counter()
        page.goto(address)
        page.get_by_role("button").first.wait_for(state="visible", timeout=60_000)
        usable = time.perf_counter() - begun
        asked = time.perf_counter()
        page.get_by_role("button").first.click(timeout=60_000)
        clicked = time.perf_counter() - asked
        script = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
        paint = page.evaluate(script) / 1000
        browser.close()
    return {"first_paint": round(paint, 2), "usable": round(usable, 2), "click": round(clicked, 3)}


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--port", type=int, default=7990)
    chosen = words.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="lora-studio-start-") as name:
        clone, projects = Path(name) / "clone", Path(name) / "projects"
        begun = time.perf_counter()
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(clone)], check=True)
        found["clone"] = round(time.perf_counter() - begun, 1)
        studio = Studio(clone, chosen.port, projects)
        found["first_start"] = round(studio.seconds, 1)
        found["first_page"] = visit(studio.address)
        studio.stop()
        found["later_starts"] = []
        for number in range(1, 4):
            studio = Studio(clone, chosen.port + number, projects)
            found["later_starts"].append(round(studio.seconds, 2))
            found["later_page"] = visit(studio.address)
            studio.stop()
        found["repository_mb"] = round(sum(map(os.path.getsize, tracked(clone))) / 2**20, 1)
        found["installed_mb"] = round(size(clone / ".venv") / 2**20)
    pages = found["first_page"], found["later_page"]
    rows = [
        [
            "fresh clone to a server that answers (installs everything)",
            f"{found['clone'] + found['first_start']:.0f} s",
        ],
        ["first page: paint, usable, click answered", "{first_paint} s, {usable} s, {click} s".format(**pages[0])],
        ["later starts to a server that answers", ", ".join(f"{one} s" for one in found["later_starts"])],
        ["later page: paint, usable, click answered", "{first_paint} s, {usable} s, {click} s".format(**pages[1])],
        ["size: repository, installed .venv", f"{found['repository_mb']} MB, {found['installed_mb']} MB"],
    ]
    save("start", found, markdown(["what", "measured"], rows))


def tracked(clone: Path) -> list[Path]:
    """The files that git keeps."""
    answer = subprocess.run(["git", "-C", str(clone), "ls-files", "-z"], capture_output=True, text=True, check=True)
    return [clone / name for name in answer.stdout.split("\0") if name and (clone / name).is_file()]


if __name__ == "__main__":
    main()
