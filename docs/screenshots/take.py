"""Take the screenshots of the documentation: walk through the character sample in a real studio, dark and light.

python docs/screenshots/take.py          needs Chromium and the test extras; takes a few minutes
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
PORT = 7921
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
LONG = 1_800_000  # milliseconds
SERVE = "import sys; from pathlib import Path; from lora_studio.ui.server import serve; " + (
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]), browser=False)"
)


def start(projects: Path) -> subprocess.Popen[bytes]:
    """A studio in a process of its own; returns when it answers."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(projects), str(PORT)], env=environment)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/about", timeout=2)
            return process
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the studio did not start")


def walk(page: Any) -> None:
    """From the sample to an export, as a person clicks."""
    page.goto(f"http://127.0.0.1:{PORT}/?__theme=dark")
    page.locator(".ls-sample h3").first.wait_for()
    shoot(page, "start")
    page.get_by_role("button", name="Try the character sample").click()
    page.locator(".ls-recipe tr").first.wait_for()
    page.locator("#ls-next").click()
    page.locator("#ls-add-sample").first.click()
    page.locator("#ls-refused").wait_for(timeout=LONG)
    page.locator("#ls-step-curation").click()
    page.locator("#ls-accept-all").wait_for()
    page.locator(".ls-cell", has_text="_thumb").or_(page.locator(".ls-cell", has_text="small")).first.click()
    page.wait_for_timeout(4000)
    page.get_by_text("Looking at").first.wait_for(state="hidden", timeout=LONG)
    page.wait_for_timeout(6000)
    whole(page)
    page.locator("#ls-accept-all").click()
    page.locator("#ls-step-tagging").click()
    page.locator("#ls-auto-tag:enabled").click()
    page.locator("#ls-undo", has_text="Auto-tagging").wait_for(timeout=LONG)
    page.locator("#ls-step-training").click()
    page.locator(".ls-steps-plan p").first.wait_for()
    page.wait_for_timeout(2000)
    page.locator("#ls-start-training").click()
    page.wait_for_function("document.querySelectorAll('.ls-strip-column').length >= 5", timeout=LONG)
    both(page, "training")
    page.locator("#ls-run-state", has_text="finished").wait_for(timeout=LONG)
    page.locator("#ls-step-testing").click()
    page.wait_for_function("document.querySelector('#ls-set-learn_prompts textarea')?.value", timeout=LONG)
    page.wait_for_timeout(1500)
    page.locator("#ls-start-test").click()
    page.locator(".ls-scores").wait_for(timeout=LONG)
    page.locator("#ls-export-go").click()
    page.locator(".ls-download").wait_for()


def whole(page: Any) -> None:
    """Curation's views, and its editor."""
    for view in ("pictures", "set", "copies", "map"):
        page.locator(f"#ls-view-{view}").click()
        page.wait_for_timeout(1500)
        both(page, "curation" if view == "pictures" else view)
    page.locator("#ls-view-pictures").click()
    page.keyboard.press("e")
    page.keyboard.press("2")
    page.get_by_role("button", name="Find the subject").click()
    page.wait_for_timeout(8000)
    shoot(page, "mask-dark")
    page.get_by_role("button", name="Cancel").click()
    page.set_viewport_size({"width": 1920, "height": 1080})
    for step in ("gathering", "curation"):
        page.locator(f"#ls-step-{step}").click()
        both(page, f"{step}-1920")
    page.set_viewport_size({"width": 1280, "height": 800})


def captions(page: Any) -> None:
    """Tagging's views of all captions, and the choice of a tagger."""
    page.locator("#ls-step-tagging").click()
    for view in ("tags", "absorbed", "charts", "seen"):
        page.locator(f"#ls-tag-view-{view}").click()
        page.wait_for_timeout(3000)
        shoot(page, f"captions-{view}-dark")
    page.locator("#ls-tag-view-pictures").click()
    page.locator("#ls-auto-tag").click()
    shoot(page, "tagger-dark")


def shoot(page: Any, name: str) -> None:
    """One picture of the page without passing messages."""
    page.wait_for_timeout(1200)
    page.evaluate("document.querySelectorAll('.ls-toast').forEach((toast) => toast.remove())")
    page.mouse.move(640, 795)
    page.screenshot(path=HERE / f"{name}.png")


def both(page: Any, name: str) -> None:
    """The page in the dark and in the light."""
    shoot(page, f"{name}-dark")
    page.locator("#ls-theme").click()
    shoot(page, f"{name}-light")
    page.locator("#ls-theme").click()


def main() -> None:
    """Take all of them."""
    projects = Path(tempfile.mkdtemp(prefix="lora-studio-"))
    process = start(projects)
    try:
        with sync_playwright() as playwright:
            path = os.environ.get("LORA_STUDIO_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(120_000)
            walk(page)
            page.reload()
            for step in ("conception", "gathering", "tagging", "testing"):
                page.locator(f"#ls-step-{step}").click()
                page.wait_for_timeout(4000)
                both(page, step)
            captions(page)
            browser.close()
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(projects, ignore_errors=True)


if __name__ == "__main__":
    main()
