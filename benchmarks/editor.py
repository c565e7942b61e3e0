"""The caption editor before many pictures: opening, keys to the screen and to the disk, a replace over all captions.

    python -m benchmarks.editor [--pictures 10000] [--tags 15] [--edits 40] [--projects FOLDER]

Makes a project of small generated pictures (kept in FOLDER when one is named, and used again) with so many tags each,
opens it in a real studio and a real Chromium, and measures there; then counts tags and replaces one in all captions
beside plain pandas and re in the same run. Needs a Chromium; pandas for the comparison.
"""

import argparse
import os
import random
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.common import machine, markdown, save
from benchmarks.grid import FLAGS, SLUG, do_not_look, fill, serve
from lora_studio.core.project import Project
from lora_studio.judge import tags as judge_tags
from lora_studio.steps import caption_edits, captioning
from lora_studio.steps.caption_edits import CaptionEdit
from lora_studio.steps.vocabulary import words

RARE = 2000
"""Words of the captions, made up; the first ones stand in many, the last ones in few."""
SHOWN = "[...document.querySelectorAll('#ls-tagging .ls-cell img')].some((one) => one.complete && one.naturalWidth)"
OPENING = f"""() => new Promise((resolve) => {{
  const begun = performance.now();
  document.getElementById('ls-step-tagging').click();
  const look = () => ({SHOWN}) ? resolve(performance.now() - begun) : requestAnimationFrame(look);
  look();
}})"""
LISTEN = """() => document.addEventListener('keydown', (event) => {
  window.pressed = performance.timeOrigin + event.timeStamp;
  requestAnimationFrame(() => {
    const channel = new MessageChannel(); // its message comes when the frame is drawn
    channel.port1.onmessage = () => { window.shown = performance.now() - event.timeStamp; };
    channel.port2.postMessage(0);
  });
}, true)"""
WORK = """async (edits) => { // a key's handlers and the layout that they ask for, without the wait for the next frame
  const found = {}, field = document.getElementById('ls-add-tag');
  const grid = document.querySelector('#ls-tagging .ls-grid');
  const key = (name) => new KeyboardEvent('keydown', {key: name, bubbles: true, cancelable: true});
  const measure = async (name, prepare, act) => {
    const times = [];
    for (let number = 0; number < edits; number += 1) {
      prepare(number);
      document.body.getBoundingClientRect();
      const begun = performance.now();
      act();
      document.body.getBoundingClientRect();
      times.push(performance.now() - begun);
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    found[name] = times;
  };
  await measure('next', () => {}, () => grid.dispatchEvent(key('ArrowRight')));
  field.focus();
  await measure('letter', (number) => { field.value = 'word 12345'.slice(0, 1 + number % 10); },
    () => field.dispatchEvent(new Event('input', {bubbles: true})));
  await measure('edit', (number) => { field.value = `given ${number}`; }, () => field.dispatchEvent(key('Enter')));
  return found;
}"""


def describe(project: Project, per_picture: int) -> None:
    """Give every picture that many tags, the same ones in every run."""
    names = [f"word {number}" for number in range(RARE)]
    weights = [1 / (10 + number) for number in range(RARE)]
    after = []
    images = project.images()
    for image in images:
        dice = random.Random(image.id)
        chosen = dict.fromkeys(["many", "smile", *dice.choices(names, weights, k=3 * per_picture)])
        after.append(", ".join(list(chosen)[:per_picture]))
    captioning.write(project, captioning.diff_of("Captions of the benchmark", images, after))


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Median of seconds, and what came out last."""
    found, answer = [], None
    for _ in range(times):
        begun = time.perf_counter()
        answer = work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found), answer


def spread(values: list[float]) -> dict[str, float]:
    """Median and the 95th of 100."""
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "p95": ordered[int(0.95 * (len(ordered) - 1))]}


def visit(browser: Any, address: str, edits: int) -> dict[str, Any]:
    """What a page of 1920 x 1080 shows, in milliseconds."""
    page = browser.new_page(viewport={"width": 1920, "height": 1080})
    page.set_default_timeout(120_000)
    page.goto(f"{address}?project={SLUG}&step=conception")
    page.locator("#ls-step-curation:enabled").wait_for()
    page.wait_for_timeout(4000)  # the page's own start is not what is measured
    found: dict[str, Any] = {"first": page.evaluate(OPENING)}
    page.locator("#ls-tagging .ls-tag").first.wait_for()
    page.wait_for_timeout(8000)  # what is read in the background after opening
    found["nodes"] = page.evaluate("document.querySelectorAll('*').length")
    page.evaluate(LISTEN)
    page.locator("#ls-tagging .ls-cell").first.click()
    found["next"] = spread([_press(page, "ArrowRight") for _ in range(edits)])
    page.keyboard.press("t")
    page.wait_for_timeout(1500)
    found["letter"] = spread([_press(page, letter) for letter in "word 1" * 4])
    for _ in range(24):
        page.keyboard.press("Backspace")
    found["edit"], found["saved"] = _edits(page, edits)
    found |= {f"{name}_work": spread(times) for name, times in page.evaluate(WORK, edits).items()}
    page.keyboard.press("Escape")
    found["undo"] = _undo(page)
    found |= _replace(page)
    page.close()
    return found


def _press(page: Any, key: str) -> float:
    """Milliseconds from the key to the end of the frame that shows what it did."""
    page.evaluate("window.shown = 0")
    page.keyboard.press(key)
    page.wait_for_function("window.shown")
    page.wait_for_timeout(120)
    return page.evaluate("window.shown")


def _edits(page: Any, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """A tag typed and given: as `_press`, and until the answer that it is on the disk has come."""
    shown, saved = [], []
    for number in range(count):
        page.keyboard.type(f"new {number}")
        page.evaluate("window.shown = 0")
        with page.expect_response(lambda answer: "tagging.caption" in (answer.request.post_data or "")) as got:
            page.keyboard.press("Enter")
        got.value.finished()
        timing = got.value.request.timing
        saved.append(timing["startTime"] + timing["responseEnd"] - page.evaluate("window.pressed"))
        page.wait_for_timeout(200)
        shown.append(page.evaluate("window.shown"))
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(200)
    return spread(shown), spread(saved)


def _undo(page: Any) -> float:
    """One edit of one caption taken back, until the page shows it."""
    label = page.locator("#ls-undo").inner_text()
    page.wait_for_timeout(4000)
    begun = time.perf_counter()
    page.keyboard.press("u")
    page.locator(".ls-toast", has_text="Undone").wait_for()
    assert label
    return 1000 * (time.perf_counter() - begun)


def _replace(page: Any) -> dict[str, float]:
    """A tag that every caption has replaced by another: its diff, the writing, the undo; each until it is shown."""
    page.keyboard.press("b")
    page.locator("#ls-bulk-do").select_option("rename")
    page.locator("#ls-bulk-tag").fill("smile")
    page.wait_for_timeout(2500)
    page.locator("#ls-bulk-new").fill("grin")
    begun = time.perf_counter()
    page.locator(".ls-diff-told b").wait_for()
    diff = time.perf_counter() - begun
    page.wait_for_timeout(1500)
    begun = time.perf_counter()
    page.locator("#ls-diff-apply").click()
    page.locator("#ls-tagging .ls-tag", has_text="grin").wait_for()
    applied = time.perf_counter() - begun
    page.wait_for_timeout(6000)
    begun = time.perf_counter()
    page.keyboard.press("u")
    page.locator("#ls-tagging .ls-tag", has_text="smile").wait_for()
    return {"diff": 1000 * diff, "applied": 1000 * applied, "undone": 1000 * (time.perf_counter() - begun)}


def beside(project: Project) -> dict[str, Any]:
    """The same work here and with pandas and re, in seconds."""
    import pandas

    images = project.used_images()
    texts = {image.id: image.caption for image in images}
    kind = {name: category for name, category, _, _ in words(project)}
    frame = pandas.Series(texts)
    found: dict[str, Any] = {"tags": sum(text.count(",") + 1 for text in texts.values())}
    found["count_ours"], rows = timed(lambda: judge_tags.table(texts, "many", lambda tag: kind.get(tag, "other")))
    found["count_pandas"], counts = timed(lambda: frame.str.split(", ").explode().value_counts())
    assert {row.tag: row.count for row in rows} == counts.to_dict()
    edit = CaptionEdit(do="rename", tags=("smile",), new="grin")
    found["replace_diff"], diff = timed(lambda: caption_edits.preview(project, None, edit))
    found["replace_pandas"], after = timed(
        lambda: frame.str.replace(r"(?<![^,])( ?)smile(?=,|$)", r"\1grin", regex=True)
    )
    pattern = re.compile(r"(?<![^,])( ?)smile(?=,|$)")
    found["replace_re"], _ = timed(lambda: [pattern.sub(r"\1grin", text) for text in texts.values()])
    assert {one.id: one.after for one in diff.changes} == {
        key: text for key, text in after.items() if text != texts[key]
    }
    begun = time.perf_counter()
    caption_edits.apply(project, None, edit, diff.digest)
    found["replace_written"] = time.perf_counter() - begun
    begun = time.perf_counter()
    project.undo()
    found["replace_undone"] = time.perf_counter() - begun
    return found


def main() -> None:
    """Measure, write the table."""
    words_ = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words_.add_argument("--pictures", type=int, default=10_000)
    words_.add_argument("--tags", type=int, default=15)
    words_.add_argument("--edits", type=int, default=40)
    words_.add_argument("--projects", type=Path)
    asked = words_.parse_args()
    found: dict[str, Any] = {"machine": machine(), "pictures": asked.pictures}
    root = asked.projects or Path(tempfile.mkdtemp(prefix="lora-studio-editor-"))
    root.mkdir(parents=True, exist_ok=True)
    process = None
    try:
        project = fill(root, asked.pictures)
        describe(project, asked.tags)
        found["beside"] = beside(project)
        do_not_look(project)
        process, address = serve(root)
        path = os.environ.get("LORA_STUDIO_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            found["page"] = visit(browser, address, asked.edits)
            browser.close()
    finally:
        if process:
            process.terminate()
            process.wait(20)
        if not asked.projects:
            shutil.rmtree(root, ignore_errors=True)
    save("editor", found, _tables(found))


def _tables(found: dict[str, Any]) -> str:
    page, plain = found["page"], found["beside"]
    both = lambda name: f"{page[name]['median']:.0f} ms ({page[name]['p95']:.0f} ms)"  # noqa: E731
    rows = [
        ["first picture after the click on the tab", "1000 ms", f"{page['first']:.0f} ms"],
        ["elements on the whole page, 1920 x 1080", "1000", str(page["nodes"])],
        ["next picture: the key's handlers and their layout", "16 ms", both("next_work")],
        ["a letter in the tag field, with words offered: likewise", "16 ms", both("letter_work")],
        ["a tag given, with its chip: likewise", "16 ms", both("edit_work")],
        ["the same to the end of the frame (one each 16.7 ms): next picture", "", both("next")],
        ["a letter", "", both("letter")],
        ["a tag given", "", both("edit")],
        ["a tag given: key to the answer that it is on the disk", "50 ms", both("saved")],
        ["its undo, shown", "", f"{page['undo']:.0f} ms"],
        ["replace in all captions: the diff is shown", "1000 ms", f"{page['diff']:.0f} ms"],
        ["replace in all captions: written and shown", "1000 ms", f"{page['applied']:.0f} ms"],
        ["its undo, shown", "1000 ms", f"{page['undone']:.0f} ms"],
    ]
    head = f"{found['pictures']} pictures, {plain['tags']} tags: median (95 of 100)"
    seconds = lambda *names: [f"{1000 * plain[name]:.0f} ms" if name else "" for name in names]  # noqa: E731
    other = [
        ["tags counted, with categories and the trigger's share", *seconds("count_ours", "count_pandas", "")],
        ["a tag replaced, in memory", *seconds("replace_diff", "replace_pandas", "replace_re")],
        ["written to the disk with its undo", *seconds("replace_written", "", "")],
        ["undone", *seconds("replace_undone", "", "")],
    ]
    return (
        markdown([head, "wanted", "found"], rows)
        + "\n\n"
        + markdown(["in Python", "LoRA Studio", "pandas", "re"], other)
    )


if __name__ == "__main__":
    main()
