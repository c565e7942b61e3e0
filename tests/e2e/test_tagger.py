"""Tagging's helpers in a real browser: the auto-tagger, captions as files, and what training will read."""

import re
import shutil

import pytest

from lora_studio.core import paths
from lora_studio.core.jobs import Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering
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
    page.locator("#ls-tagger-open").focus()
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
    page.locator("#ls-undo", has_text="Auto-tagging").wait_for()
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

    page.locator("#ls-auto-tag", has_text="Auto-tag 3 left").click()
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
