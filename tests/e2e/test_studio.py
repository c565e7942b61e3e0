"""A person's way through the studio in Chromium: from the character sample to an exported LoRA."""

import contextlib
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from lora_studio.core.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
LONG = 600_000  # milliseconds; a shared machine may be many times slower than a laptop


def set_field(page, name: str, value: str) -> None:
    """Write into a field of a form and leave it, as a person does."""
    field = page.locator(f"#ls-set-{name} input, #ls-set-{name} textarea").first
    field.fill(value)
    field.blur()


def settled(page) -> None:
    """Wait until gradio has no event on its way: its forms answer after a blur."""
    page.wait_for_timeout(400)


def test_from_the_sample_to_an_exported_lora(studio, browser, watch):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    watch.on(page)
    page.set_default_timeout(120_000)
    page.goto(studio.url)

    # Conception: the sample, its plan, its recipe
    page.get_by_role("button", name="Try the character sample").click()
    page.locator(".ls-recipe tr").first.wait_for()
    slug = page.url.split("project=")[1].split("&")[0]
    project = Project.open(studio.projects, slug)
    page.locator("#ls-plan-defining textarea").wait_for()

    # Gathering: the sample's pictures, with what was refused and why
    page.locator("#ls-next").click()
    page.locator("#ls-add-sample").first.click()
    page.locator("#ls-refused").wait_for()
    assert len(project.images()) > 15

    # Curation: as suggested the flagged go out, one by hand, one comes back
    page.locator("#ls-step-curation").click()
    page.locator("#ls-accept-all:enabled").click()
    page.locator("#ls-filter-reject .count").get_by_text("3").wait_for()
    before = len(project.used_images())
    page.locator(".ls-cell").first.click()
    page.keyboard.press("r")
    page.wait_for_function("n => Number(document.querySelector('#ls-filter-reject .count').textContent) === n", arg=4)
    page.locator("#ls-undo", has_text="Reject 1 picture").wait_for()
    assert len(project.used_images()) == before - 1
    page.keyboard.press("u")
    page.wait_for_function("n => Number(document.querySelector('#ls-filter-reject .count').textContent) === n", arg=3)

    # Tagging: the tagger, then a tag by hand
    page.locator("#ls-step-tagging").click()
    page.locator("#ls-auto-tag:enabled").click()
    page.locator("#ls-undo", has_text="Auto-tagging").wait_for(timeout=LONG)
    page.keyboard.press("t")
    page.keyboard.type("voxel hat")
    page.keyboard.press("Enter")
    page.locator(".ls-tag", has_text="voxel hat").wait_for()
    page.locator(".ls-tagrow", has_text="voxel hat").wait_for()
    assert all(image.caption.startswith("zorbi") for image in project.used_images())

    # Training: a short one; a reload shows the same run
    page.locator("#ls-step-training").click()
    page.locator(".ls-steps-plan p").first.wait_for()
    set_field(page, "run-epochs", "2")
    set_field(page, "data-repeats", "1")
    page.locator(".ls-steps-plan p", has_text="x 2 epochs").first.wait_for()
    page.locator("#ls-start-training").click()
    page.locator("#ls-run-state").wait_for()
    page.locator(".ls-chart canvas").wait_for()
    watch.reload(page)
    page.locator("#ls-run-state").wait_for()
    assert page.locator("#ls-step-training").get_attribute("aria-selected") == "true"
    page.locator("#ls-run-state", has_text="finished").wait_for(timeout=LONG)
    page.locator(".ls-shot img").first.wait_for()

    # Testing: a small grid, the scorecard, the export
    page.locator("#ls-step-testing").click()
    page.locator("#ls-set-learn_prompts textarea").wait_for()
    page.wait_for_function("document.querySelector('#ls-set-learn_prompts textarea').value !== ''")
    for name, value in {
        "strengths": "1",
        "learn_prompts": "zorbi, smile",
        "bleed_prompts": "a person",
        "seeds": "1",
    }.items():
        set_field(page, name, value)
        settled(page)
    page.locator("#ls-start-test").click()
    page.locator(".ls-test-cell img").first.wait_for(timeout=LONG)
    page.locator(".ls-scores").wait_for(timeout=LONG)
    page.locator("#ls-export-go").click()
    page.locator(".ls-download").wait_for()
    with page.expect_download() as download:
        page.locator(".ls-download").first.click()
    exported = Path(download.value.path())

    with safe_open(exported, "pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
    assert any(key.startswith("lora_unet_") and key.endswith("lora_down.weight") for key in keys)
    assert metadata["ss_network_module"] and json.loads(metadata["ss_tag_frequency"])
    page.locator("#ls-next", has_text="All six steps done").wait_for()
    assert watch.faults == []


def test_a_run_outlives_reload_second_tab_and_restart(studio, browser, watch, picture_folder):
    from lora_studio.core.project import Plan
    from lora_studio.steps import gathering

    project = Project.create(studio.projects, Plan(name="Live", trigger="zorbi"))
    gathering.gather(project, [picture_folder(16)])
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{studio.url}?project={project.slug}&step=training")
    page.locator(".ls-steps-plan p").first.wait_for()
    set_field(page, "run-epochs", "200")
    page.locator(".ls-steps-plan p", has_text="x 200 epochs").first.wait_for()
    page.locator("#ls-start-training").click()
    tile = "document.querySelector('.ls-tile-value')"
    first = tile + " && parseInt(" + tile + ".textContent) > %d"
    page.wait_for_function(first % 2, timeout=LONG)

    second = browser.new_page()
    watch.on(second)
    second.set_default_timeout(120_000)
    second.goto(page.url)
    second.wait_for_function(first % 2)
    assert second.locator("#ls-run-state").inner_text() == "training"

    studio.stop()
    page.locator("#ls-offline").wait_for()
    studio.start()
    page.locator("#ls-offline").wait_for(state="detached")
    page.wait_for_function(first % 4, timeout=LONG)
    page.reload()
    page.wait_for_function(first % 4)
    page.locator("#ls-stop-training").click()
    page.locator("#ls-run-state", has_text="stopped").wait_for(timeout=LONG)
    assert list(project.folder.glob("runs/*/checkpoints/*.safetensors")), "a stop saves"
    assert page.locator("#ls-resume-training").is_visible()


def test_hostile_names_and_tags_stay_text(studio, browser, watch, tmp_path):
    from lora_studio.core.project import Plan
    from lora_studio.steps import gathering
    from tests.conftest import draw_picture

    attack = '<img src=x onerror="window.hit=1">'
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / f"{attack.replace('/', '')} ${{window.hit=2}} {{{{x}}}}.png").write_bytes(draw_picture(1))
    (folder / f"{attack.replace('/', '')} ${{window.hit=2}} {{{{x}}}}.txt").write_text(
        f"zorbi, {attack}, <script>window.hit=3</script>"
    )
    project = Project.create(studio.projects, Plan(name=attack, trigger="<b>zorbi</b>", description=attack))
    gathering.gather(project, [folder])
    page = browser.new_page()
    watch.on(page)
    page.set_default_timeout(60_000)
    page.goto(f"{studio.url}?project={project.slug}&step=conception")
    page.locator("h1", has_text="onerror").wait_for()
    for step in ("gathering", "curation", "training", "testing", "conception", "tagging"):
        page.locator(f"#ls-step-{step}").click()
        page.wait_for_timeout(1500)
        assert page.evaluate("window.hit") is None, step
    page.locator(".ls-tag", has_text="onerror").wait_for()
    assert page.evaluate("window.hit") is None
    assert watch.faults == []


def test_a_foreign_page_reaches_nothing(studio, browser):
    """A page of another site tries to call a function and to upload; the server refuses both."""
    from lora_studio.core.project import Plan

    project = Project.create(studio.projects, Plan(name="Mine", trigger="zorbi"))
    page = browser.new_page()
    answers: list[int] = []
    page.on("response", lambda r: r.request.method == "POST" and answers.append(r.status))
    page.route("http://evil.test/", lambda route: route.fulfill(body="<h1>evil</h1>", content_type="text/html"))
    page.goto("http://evil.test/")
    with contextlib.suppress(Exception):
        page.evaluate(
            """async (base) => {
              const data = {name: "project.trash", arguments: {project: "mine"}};
              const body = JSON.stringify({component_id: 2, fn_name: "call", session_hash: "x", data});
              const headers = {"Content-Type": "text/plain"};
              for (const path of ["gradio_api/component_server", "gradio_api/upload", "upload/abc?name=a&offset=0"])
                await fetch(base + path, {method: "POST", mode: "no-cors", headers, body}).catch(() => {});
            }""",
            studio.url,
        )
    assert all(status == 403 for status in answers)
    assert project.folder.is_dir()
