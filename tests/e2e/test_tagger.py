"""Tagging's helpers in a real browser: the auto-tagger, captions as files, and what training will read."""

import json
import re
import shutil
import zipfile
from dataclasses import asdict

import pytest

from lora_studio.core import paths
from lora_studio.core.jobs import Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.judge.reaction import Reaction
from lora_studio.steps import gathering, trigger
from tests.conftest import draw_picture
from tests.tagged import tagged

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
LONG = 600_000  # milliseconds; a shared machine may be many times slower than a laptop
HOSTILE = "<img src=x onerror=window.hit=1>"


@pytest.fixture
def project(studio, tmp_path) -> Project:
    """Five of the sample's pictures."""
    project = Project.create(studio.projects, Plan(name="Tagger", trigger="zorbi", kind="character"))
    folder = tmp_path / "five"
    folder.mkdir()
    for path in sorted((paths.assets() / "starter" / "samples" / "character" / "images").glob("zorbi_0?.png"))[:5]:
        shutil.copy(path, folder)
    gathering.gather(project, [folder])
    assert len(project.images()) == 5
    return project


@pytest.fixture
def page(studio, browser, watch, project):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    watch.on(page)
    page.set_default_timeout(60_000)
    page.show = lambda: page.goto(f"{studio.url}?project={project.slug}&step=tagging")
    return page


def captions(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def test_the_first_tagging_is_one_click_and_the_second_is_seen_before_it_is_written(page, watch, project):
    broken = project.images()[4]
    project.original_path(broken).write_bytes(b"no picture any more")
    page.show()
    page.locator("#ls-auto-tag:enabled").click()
    page.locator(".ls-toast", has_text="4 pictures tagged").wait_for(timeout=LONG)
    assert broken.name in page.locator(".ls-toast").inner_text(), "what failed is named"
    first = captions(project)
    assert all(text.startswith("zorbi, ") for text in first[:4]) and not first[4]

    # again, by keyboard: fewer tags, afresh
    page.locator("#ls-tagger-open:enabled").focus()
    page.keyboard.press("Enter")
    page.locator("[data-model=starter]:checked").wait_for()
    page.locator("[data-which=used]").press("Enter")
    page.locator("#ls-tagger-more summary").press("Enter")
    page.locator("[data-kind=background]").press("Space")
    page.locator("#ls-tagger-max_tags").fill("3")
    page.locator("#ls-tagger-how").select_option("replace")
    page.locator("#ls-tagger-go", has_text="Tag 5 pictures").press("Enter")
    page.locator("#ls-tagger-found", has_text="4 pictures looked at").wait_for(timeout=LONG)
    page.locator("#ls-tagger-failures", has_text="1 failed").click()
    page.locator("dialog td", has_text=broken.name).wait_for()
    page.keyboard.press("Escape")
    assert captions(project) == first, "nothing is written before it was seen"
    page.locator("#ls-tagger-look").press("Enter")
    page.locator(".ls-diff-row[data-id]").nth(3).wait_for()
    assert "background" not in page.locator(".ls-diff-row[data-id] [data-side=after]").first.inner_text()
    page.keyboard.press("Escape")
    page.locator("#ls-tagger-found").wait_for()
    assert captions(project) == first
    page.locator("#ls-tagger-look").press("Enter")
    page.locator("#ls-diff-apply:enabled").press("Enter")
    page.locator("#ls-tagger-found").wait_for(state="detached")
    fewer = captions(project)[:4]
    assert all(1 < text.count(",") + 1 <= 4 and "background" not in text for text in fewer)

    page.locator("#ls-undo", has_text="Auto-tagging").click()
    page.locator(".ls-tag", has_text=first[0].rpartition(", ")[2]).wait_for()
    assert captions(project) == first, "one step takes all of it back"
    assert watch.faults == []


def test_what_cannot_be_is_told_in_the_dialog_and_a_stopped_tagging_keeps_what_is_done(
    page, watch, studio, project, tmp_path
):
    half = tmp_path / "half"
    half.mkdir()
    (half / "selected_tags.csv").write_text("tag_id,name,category,count\n1,hat,0,5\n")
    with project.edit("by hand") as edit:
        edit.set(1, caption=f"zorbi, {HOSTILE}")
    tagged(project, Jobs(studio.projects), {1: ["smile"], 2: [HOSTILE]})
    page.show()
    page.locator("#ls-tagger-found", has_text="2 pictures looked at, then stopped").wait_for()
    page.locator("#ls-tagger-mode").select_option("append")
    page.locator("#ls-tagger-look").click()
    page.locator("ins.ls-diff-word", has_text="onerror").wait_for()
    page.locator("#ls-diff-apply:enabled").click()
    page.locator("#ls-tagger-found").wait_for(state="detached")
    assert captions(project)[:3] == [f"zorbi, {HOSTILE}, smile", f"zorbi, {HOSTILE}", ""]

    page.locator("#ls-auto-tag:enabled", has_text="Auto-tag 3 left").click()
    page.locator("[data-which=untagged][aria-pressed=true]").wait_for()
    page.locator("#ls-tagger-own").fill(str(half))
    page.keyboard.press("Enter")
    page.locator(".ls-field-problem", has_text=re.compile("lacks config.json, model.safetensors")).wait_for()
    page.locator("#ls-tagger-more summary").click()
    page.locator("#ls-tagger-threshold").fill("7")
    page.locator("#ls-tagger-go").click()
    page.locator(".ls-field.bad .ls-field-problem", has_text="1").wait_for()
    page.locator("#ls-tagger-threshold").fill("")
    page.locator("#ls-tagger-go", has_text="Tag 3 pictures").click()
    page.locator("#ls-tagger-found", has_text="3 pictures looked at").wait_for(timeout=LONG)
    page.locator("#ls-tagger-leave").click()
    page.locator("#ls-tagger-found").wait_for(state="detached")
    assert captions(project)[2:] == [""] * 3
    assert page.evaluate("window.hit") is None and watch.faults == []


def test_captions_go_out_as_files_and_come_back_as_a_diff(page, watch, project, tmp_path):
    out, images = tmp_path / "out", project.images()
    with project.edit("by hand") as edit:
        for image in images[:4]:
            edit.set(image.id, caption="zorbi, smile")
    page.show()
    page.locator("#ls-caption-files:enabled").press("Enter")
    with page.expect_download() as download:
        page.locator("#ls-export-zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.read(f"{images[0].name.removesuffix('.png')}.txt") == b"zorbi, smile"
    page.locator("#ls-export-folder").fill(str(out))
    page.keyboard.press("Enter")
    page.locator("dialog .ls-note.good", has_text="Captions of 4 pictures are in").wait_for()
    page.keyboard.press("Escape")

    # another program edits three, one of which is edited here too
    first, second, third = (out / f"{image.name.removesuffix('.png')}.txt" for image in images[:3])
    first.write_bytes("zorbi, smile, schön".encode("utf-16"))
    second.write_text(f"zorbi, {HOSTILE}")
    third.write_text("zorbi, theirs")
    with project.edit("here") as edit:
        edit.set(images[2].id, caption="zorbi, ours")
    page.locator(".ls-found", has_text="3 captions changed in out by another program").locator("button.primary").click()
    page.locator("ins.ls-diff-word", has_text="schön").wait_for()
    page.locator("ins.ls-diff-word", has_text="onerror").wait_for()
    page.locator(f".ls-conflict[data-id='{images[2].id}']", has_text="zorbi, ours").wait_for()
    page.locator("[data-side=theirs]").press("Enter")
    page.locator("#ls-edits-apply:enabled").press("Enter")
    page.locator(".ls-found[data-folder]").wait_for(state="detached")
    assert captions(project)[:3] == ["zorbi, smile, schön", f"zorbi, {HOSTILE}", "zorbi, theirs"]
    page.locator("#ls-undo", has_text="Captions from out").click()
    page.locator("#ls-undo", has_text="here").wait_for()
    assert captions(project)[:3] == ["zorbi, smile", "zorbi, smile", "zorbi, ours"]

    # files of the visitor's own computer
    page.locator("#ls-caption-files").click()
    page.locator("#ls-files-in").click()
    files = {images[3].name.replace(".png", ".txt"): b"\xef\xbb\xbfzorbi, new", "stranger.txt": b"zorbi, nobody"}
    page.locator("#ls-caption-chooser").set_input_files(
        [{"name": name, "mimeType": "text/plain", "buffer": data} for name, data in files.items()]
    )
    page.locator(".ls-read-note", has_text="1 file fit no picture").wait_for()
    page.locator("#ls-diff-apply:enabled").click()
    page.locator("dialog").wait_for(state="detached")
    assert captions(project)[3] == "zorbi, new"
    assert page.evaluate("window.hit") is None and watch.faults == []


def test_what_training_reads_is_shown_with_tokens_and_the_trigger_is_judged(page, watch, studio, project):
    long = ", ".join(f"tag number {number}" for number in range(90))
    with project.edit("by hand") as edit:
        edit.set(1, caption=f"{HOSTILE}, {long}")
        edit.set(2, caption="smile, red shirt, zorbi")
    page.show()
    page.locator("button", has_text="As trained").click()
    row = page.locator(".ls-seen-row[data-id='2']")
    row.locator("mark", has_text="zorbi").wait_for()
    assert set(row.locator("p").inner_text().split(", ")) == {"zorbi", "smile", "red shirt"}
    page.locator(".ls-seen-row[data-id='1'] .ls-unread").wait_for()
    assert page.locator(".ls-seen-row[data-id='1'] .ls-over").inner_text().endswith("/ 225")

    # one picture through the epochs, as tokens
    row.locator("button").press("Enter")
    page.locator(".ls-seen-row[data-id='2']", has_text="epoch 8").wait_for()
    assert page.locator(".ls-seen-row").count() == 8
    texts = page.locator(".ls-seen-row p").all_inner_texts()
    assert len(set(texts)) > 1 and all(text.startswith("zorbi, ") for text in texts)
    page.locator("#ls-seen-ids").press("Space")
    page.locator(".ls-seen-row .ls-token i").first.wait_for()
    page.keyboard.press("n")
    page.locator(".ls-seen-lead", has_text="epoch by epoch").wait_for()

    # the trigger: in pieces, no common word, and what the base draws at it
    page.locator("#ls-trigger-verdict", has_text="zorbi is no word that the base knows").wait_for()
    page.locator("#ls-react-go").click()
    page.locator("#ls-react .ls-running button").click()
    page.locator("#ls-react .ls-problem", has_text="Stopped").wait_for(timeout=LONG)
    assert page.evaluate("window.hit") is None and watch.faults == []


def test_the_verdict_of_a_trial_is_shown_with_its_pictures(page, watch, studio, project):
    tried(project, Jobs(studio.projects))
    page.show()
    page.locator("button", has_text="As trained").click()
    page.locator("#ls-react-verdict", has_text="The base reacts to zorbi already").wait_for()
    page.wait_for_function(
        "[...document.querySelectorAll('#ls-react img')].filter((one) => one.naturalWidth === 64).length === 4"
    )
    assert watch.faults == []


def tried(project: Project, jobs: Jobs) -> None:
    """A trial of the trigger that has ended: two pictures without and two with the word."""
    folder = project.new_folder("jobs", "react")
    config = {"react": {"word": "zorbi"}}
    jobs.prepare(folder, trigger.TARGET, config, "What the base draws at zorbi", project.slug)
    (folder / "images").mkdir()
    grid = [
        trigger.Drawing("" if kind == "without" else "zorbi", kind, "", seed, f"images/{kind}-{seed}.png")
        for kind in ("with", "without")
        for seed in (1, 2)
    ]
    for number, one in enumerate(grid):
        (folder / one.file).write_bytes(draw_picture(number, (64, 64)))
    (folder / "drawings.json").write_text(json.dumps([asdict(one) for one in grid]))
    verdict = Reaction("zorbi", True, 0.5, 0.2, [("hat", 0.4)], "The base reacts to zorbi already.", "Choose another.")
    (folder / "reaction.json").write_text(json.dumps(asdict(verdict)))
