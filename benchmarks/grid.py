"""The grid of the curation tab before many pictures: first pictures, nodes, memory, how soon a decision is saved.

    python -m benchmarks.grid [--pictures 10000] [--decisions 100] [--projects FOLDER]

Makes a project of small generated pictures (kept in FOLDER when one is named, and used again), opens it in a real
studio and a real Chromium, and measures there. Needs a Chromium.
"""

import argparse
import hashlib
import io
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.common import ROOT, machine, markdown, save
from lora_studio.core import images
from lora_studio.core.jobs import ENDED, Jobs
from lora_studio.core.project import Arrival, Plan, Project
from lora_studio.judge.measures import measure
from lora_studio.steps import looking

SLUG = "grid"
SIDE = 256
SERVE = "import sys; from pathlib import Path; from lora_studio.ui.server import serve; " + (
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]), browser=False)"
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SIZES = ((1280, 800), (1920, 1080))
CELL_SHOWN = (
    "[...document.querySelectorAll('#ls-curation .ls-cell img')].some((one) => one.complete && one.naturalWidth)"
)
FIRST_PICTURE = f"""() => new Promise((resolve) => {{
  const begun = performance.now();
  document.getElementById('ls-step-curation').click();
  const look = () => ({CELL_SHOWN}) ? resolve(performance.now() - begun) : requestAnimationFrame(look);
  look();
}})"""
LISTEN = """() => document.addEventListener('keydown', (event) => {
  window.pressed = performance.timeOrigin + event.timeStamp;
  requestAnimationFrame(() => { window.shown = performance.now() - event.timeStamp; });
}, true)"""


def fill(root: Path, count: int) -> Project:
    """A project of `count` different pictures of 256 x 256; those that are there already are used again."""
    found = root / SLUG / "project.toml"
    project = Project.open(root, SLUG) if found.is_file() else Project.create(root, Plan(name=SLUG, trigger="many"))
    arrivals: list[Arrival] = []
    for number in range(len(project.images()), count):
        dice = np.random.default_rng(number)
        small = dice.integers(0, 256, (4, 4, 3), np.uint8)
        picture = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        data, found = buffer.getvalue(), measure(np.asarray(picture))
        fields = {"name": f"picture {number:05d}.jpg", "width": SIDE, "height": SIDE, "source": "generated"}
        fields |= {"sharpness": found.sharpness, "phash": found.phash, "signature": found.signature}
        fields |= {"caption": f"many, picture {number}, on a plain ground"}
        thumb, digest = images.thumbnail(picture), hashlib.sha256(data).hexdigest()
        arrivals.append(Arrival(data, digest, ".jpg", thumb, project.plan.background, fields))
        if len(arrivals) == 200 or number == count - 1:
            project.add_images(arrivals)
            arrivals.clear()
    return project


def do_not_look(project: Project) -> None:
    """Stop the job that would look at the pictures for as long as the page is measured, and take both cores."""
    jobs = Jobs(project.root)
    job = looking.start(project, jobs)
    if job is not None and job.state not in ENDED:
        jobs.command(job.folder, "stop")
        jobs.wait(job.folder, 120)


def serve(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A studio in a process of its own, and its address; returns when it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(root), str(port)], env=environment)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/about", timeout=2)
            return process, f"http://127.0.0.1:{port}/"
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the studio did not start")


def visit(browser: Any, address: str, size: tuple[int, int], decisions: int) -> dict[str, Any]:
    """What one page of that size shows: times in milliseconds, memory in MB."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(60_000)
    page.goto(f"{address}?project={SLUG}&step=conception")
    page.locator("#ls-step-curation:enabled").wait_for()
    page.wait_for_timeout(3000)  # the page's own start is not what is measured
    found: dict[str, Any] = {"first": page.evaluate(FIRST_PICTURE)}
    page.wait_for_function("document.querySelector('#ls-accept-all')")  # the judge has answered
    page.wait_for_timeout(2000)
    again = []
    for _ in range(5):
        page.locator("#ls-step-conception").click()
        page.wait_for_timeout(300)
        again.append(page.evaluate(FIRST_PICTURE))
    found["again"] = statistics.median(again)
    found |= _size(page)
    grid = page.locator("#ls-curation .ls-grid")
    for share in range(1, 21):  # through all of it, as somebody looking for a picture
        grid.evaluate("(node, share) => { node.scrollTop = node.scrollHeight * share / 20; }", share)
        page.wait_for_timeout(150)
    found["scrolled"] = _size(page)
    page.keyboard.press("Home")
    page.wait_for_timeout(1000)
    page.evaluate(LISTEN)
    times = [_decide(page) for _ in range(decisions)]
    for name in ("saved", "shown"):
        values = sorted(one[name] for one in times)
        found[name] = {"median": statistics.median(values), "p95": values[int(0.95 * (len(values) - 1))]}
    page.close()
    return found


def _decide(page: Any) -> dict[str, float]:
    """Milliseconds from the key to the next frame, and to the end of the answer that it is saved."""
    with page.expect_response(lambda answer: "curation.decide" in (answer.request.post_data or "")) as got:
        page.keyboard.press("k")
    got.value.finished()
    timing = got.value.request.timing
    saved = timing["startTime"] + timing["responseEnd"] - page.evaluate("window.pressed")
    page.wait_for_timeout(150)
    return {"saved": saved, "shown": page.evaluate("window.shown")}


def _size(page: Any) -> dict[str, float]:
    """Elements of the page, and what its renderer holds in memory after a collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    nodes = page.evaluate("document.querySelectorAll('*').length")
    heap = session.send("Runtime.getHeapUsage")["usedSize"] / 2**20
    processes = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    private = max(_private(one["id"]) for one in processes if one["type"] == "renderer")
    return {"nodes": nodes, "heap": heap, "memory": private}


def _private(pid: int) -> float:
    """MB of a process that it shares with no other (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return float("nan")
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


def main() -> None:
    """Measure, write the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--pictures", type=int, default=10_000)
    words.add_argument("--decisions", type=int, default=100)
    words.add_argument("--projects", type=Path)
    asked = words.parse_args()
    found: dict[str, Any] = {"machine": machine(), "pictures": asked.pictures, "pages": {}}
    root = asked.projects or Path(tempfile.mkdtemp(prefix="lora-studio-grid-"))
    root.mkdir(parents=True, exist_ok=True)
    process = None
    try:
        do_not_look(fill(root, asked.pictures))
        process, address = serve(root)
        path = os.environ.get("LORA_STUDIO_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        with sync_playwright() as playwright:
            for size in SIZES:
                browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
                found["pages"][f"{size[0]} x {size[1]}"] = visit(browser, address, size, asked.decisions)
                browser.close()
    finally:
        if process:
            process.terminate()
            process.wait(20)
        if not asked.projects:
            shutil.rmtree(root, ignore_errors=True)
    rows = [
        ["first picture after the first click on the tab", "1000 ms", "first", "{:.0f} ms"],
        ["first picture when the tab is opened again", "1000 ms", "again", "{:.0f} ms"],
        ["elements on the whole page", "1000", "nodes", "{}"],
        ["renderer, private memory", "200 MB", "memory", "{:.0f} MB"],
        ["renderer, JavaScript heap", "", "heap", "{:.0f} MB"],
        ["after scrolling through: elements", "1000", "scrolled.nodes", "{}"],
        ["after scrolling through: private memory", "200 MB", "scrolled.memory", "{:.0f} MB"],
        ["a decision is shown after, median", "", "shown.median", "{:.0f} ms"],
        ["a decision is saved after, median", "50 ms", "saved.median", "{:.0f} ms"],
        ["a decision is saved after, 95 of 100", "", "saved.p95", "{:.0f} ms"],
    ]
    table = [
        [text, wanted, *(form.format(_at(page, key)) for page in found["pages"].values())]
        for text, wanted, key, form in rows
    ]
    save("grid", found, markdown([f"{asked.pictures} pictures", "wanted", *found["pages"]], table))


def _at(page: dict[str, Any], key: str) -> float:
    for part in key.split("."):
        page = page[part]
    return page  # type: ignore[return-value]


if __name__ == "__main__":
    main()
