"""Curation as a person does it: by keyboard and mouse, in a real browser before a real studio."""

import re

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering
from tests.conftest import draw_picture

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COUNT = "([name, count]) => document.querySelector(`#ls-filter-${name} .count`)?.textContent === String(count)"


@pytest.fixture
def project(studio, picture_folder) -> Project:
    project = Project.create(studio.projects, Plan(name="Pile", trigger="zorbi"))
    folder = picture_folder(30)
    (folder / "twin.jpg").write_bytes(draw_picture(3, form="JPEG"))
    (folder / "tiny.png").write_bytes(draw_picture(90, (40, 24)))
    gathering.gather(project, [folder])
    return project


@pytest.fixture
def page(studio, browser, watch, project):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    watch.on(page)
    page.set_default_timeout(60_000)
    page.goto(f"{studio.url}?project={project.slug}&step=curation")
    page.locator("#ls-accept-all").wait_for()
    page.count = lambda name, count: page.wait_for_function(COUNT, arg=[name, count])
    page.saved = lambda label: page.locator("#ls-undo", has_text=label).wait_for()
    return page


def decision(project: Project, image_id: int) -> str:
    return project.image(image_id).decision


def current(page) -> int:
    return int(page.locator("#ls-curation .ls-cell.current").get_attribute("data-id"))


def test_the_keyboard_decides_goes_on_and_takes_back(page, watch, project):
    page.locator("#ls-step-gathering").click()
    page.locator("#ls-step-curation").click()  # from here on no mouse: the first picture is the current one
    page.locator("#ls-curation .ls-cell.current").wait_for()
    for key in "kmr":
        page.keyboard.press(key)
    page.saved("Reject 1 picture")
    assert [decision(project, one) for one in (1, 2, 3)] == ["keep", "maybe", "reject"] and current(page) == 4
    for name, count in {"all": 32, "new": 29, "keep": 1, "maybe": 1, "reject": 1}.items():
        page.count(name, count)
    assert len(project.used_images()) == 30  # a maybe is not trained on

    page.keyboard.press("u")
    page.count("reject", 0)
    page.wait_for_function("document.querySelector('#ls-curation .ls-cell.current').dataset.id === '3'")
    page.keyboard.press("Shift+U")
    page.count("reject", 1)
    page.locator(".ls-cell[data-id='1']").click()
    page.keyboard.press("n")
    page.count("keep", 0)

    page.locator(".ls-cell[data-id='5']").click()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("k")
    page.saved("Keep 3 pictures")
    assert [decision(project, one) for one in (5, 6, 7)] == ["keep"] * 3
    page.keyboard.press("?")
    page.locator("dialog", has_text="do as suggested").wait_for()
    assert watch.faults == []


def test_a_decision_that_could_not_be_saved_is_taken_back(page, studio):
    page.locator(".ls-cell[data-id='1']").click()
    studio.stop()
    page.keyboard.press("k")
    page.locator("#ls-offline").wait_for()
    page.count("keep", 0)
    assert page.locator(".ls-cell[data-id='1']").get_attribute("data-decision") == "new"


def test_the_filter_language_narrows_the_grid_and_explains_itself(page, watch, project):
    page.keyboard.press("/")
    field = page.locator("#ls-filter")
    page.locator(".ls-word", has_text="flagged").wait_for()
    page.keyboard.type("wid")
    page.locator(".ls-word", has_text="width").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert field.input_value() == "width < "
    page.keyboard.type("50 and not keep")
    page.keyboard.press("Enter")
    page.count("all", 1)
    assert page.locator(".ls-cell", has_text="tiny.png").count() == 1
    page.keyboard.press("k")  # the grid has the focus now; what is kept leaves the filter
    page.count("all", 0)
    page.locator(".ls-empty", has_text="No picture is like that").wait_for()

    page.keyboard.press("/")
    page.keyboard.type("widht < 50")
    page.locator("#ls-filter-wrong", has_text="widht").wait_for()
    assert field.get_attribute("aria-invalid") == "true"
    page.keyboard.press("Escape")
    page.count("all", 32)
    assert page.locator("#ls-filter-wrong").inner_text() == ""

    page.locator("#ls-sort").select_option("pixels")
    first = """() => [...document.querySelectorAll('#ls-curation .ls-cell')].some((cell) =>
      cell.style.transform === 'translate(0px, 0px)' && cell.textContent.includes('tiny.png'))"""
    page.wait_for_function(first)
    assert watch.faults == []


def test_suggestions_are_seen_on_each_picture_and_accepted_singly_or_all_that_are_shown(page, watch, project):
    page.locator(".ls-chip-button[data-chip='copy']").click()
    page.wait_for_function("document.querySelectorAll('#ls-curation .ls-cell').length === 1")
    copy = page.locator("#ls-curation .ls-cell").first
    assert copy.get_attribute("data-suggested") == "reject" and "copy of #" in copy.inner_text()
    page.locator(".ls-suggested", has_text="Suggested: reject").wait_for()
    image_id = int(copy.get_attribute("data-id"))
    page.keyboard.press("a")
    page.saved("Accept 1 ")
    assert decision(project, image_id) == "reject" and project.image(image_id).reason

    page.locator(".ls-chip-button[data-chip='copy']").click()
    page.count("new", 31)
    page.locator(".ls-filter.keep").click()
    page.locator("#ls-accept-all").click()
    toast = page.locator(".ls-toast", has_text="suggestions accepted")
    toast.wait_for()
    accepted = int(re.search(r"(\d+) suggestions accepted", toast.inner_text())[1])
    decided = [image.decision for image in project.images() if image.id != image_id]
    assert decided.count("keep") == accepted > 20 and decided.count("reject") == 0
    page.locator(".ls-toast .ls-link", has_text="Undo").click()
    page.count("keep", 0)
    assert decision(project, image_id) == "reject"
    assert watch.faults == []


def test_two_pictures_are_compared_under_one_zoom_and_one_of_them_kept(page, watch, project):
    page.locator(".ls-cell[data-id='1']").click()
    page.locator(".ls-cell[data-id='2']").click(modifiers=["Control"])
    page.keyboard.press("x")
    page.locator(".ls-measures th", has_text="Sharpness").wait_for()
    stages = page.locator(".ls-compare .ls-stage")
    box = stages.nth(0).bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 60)
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelectorAll('.ls-compare .ls-stage.zoomed').length === 2")
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 100)
    page.mouse.up()
    moved = [stages.nth(place).locator("img").get_attribute("style") for place in (0, 1)]
    assert moved[0] == moved[1] and "scale(" in moved[0]
    page.keyboard.press("2")
    page.saved("Keep #2, reject 1 like it")
    assert [decision(project, one) for one in (1, 2)] == ["reject", "keep"]
    page.keyboard.press("u")
    page.count("new", 32)

    page.locator(".ls-cell[data-id='4']").click()
    page.keyboard.press("z")  # enlarged: the same keys decide, and the picture follows
    page.locator(".ls-viewer img[alt='picture 003.png']").wait_for()
    page.keyboard.press("k")
    page.locator(".ls-viewer img[alt='picture 004.png']").wait_for()
    page.keyboard.press("Escape")
    page.saved("Keep 1 picture")
    assert decision(project, 4) == "keep"
    assert watch.faults == []


def test_where_pictures_are_from_is_told_and_set_on_all_that_are_selected(page, watch, project):
    page.locator(".ls-cell[data-id='1']").click()
    page.locator("#ls-origin summary").click()
    page.locator("#ls-origin input[data-field=author]").fill("Ada")
    page.keyboard.press("Enter")
    page.saved("Change the author of 1 picture")
    page.locator(".ls-cell[data-id='3']").click(modifiers=["Shift"])
    page.locator("#ls-origin input[placeholder^=several]").wait_for()
    page.locator("#ls-origin input[data-field=licence]").fill("CC BY 4.0")
    page.keyboard.press("Tab")
    page.saved("Change the licence of 3 pictures")
    assert {(image.author, image.licence) for image in project.images()[:3]} == {
        ("Ada", "CC BY 4.0"),
        ("", "CC BY 4.0"),
    }
    assert watch.faults == []


def test_only_what_can_be_seen_of_the_grid_is_drawn(page):
    drawn = "() => document.querySelectorAll('#ls-curation .ls-cell').length"
    assert 10 <= page.evaluate(drawn) < 32
    page.keyboard.press("End")
    page.locator(".ls-cell[data-id='32'].current").wait_for()
    assert page.locator(".ls-cell[data-id='1']").count() == 0 and page.evaluate(drawn) < 32


def test_undo_goes_to_its_picture_at_once_and_not_when_the_judge_has_answered(page, watch, project):
    page.locator(".ls-cell[data-id='3']").click()
    page.keyboard.press("k")
    page.saved("Keep 1 picture")
    page.locator(".ls-cell[data-id='9']").click()
    held = []

    def hold_the_judge(route):
        if "curation.audit" in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route("**/*", hold_the_judge)
    page.keyboard.press("u")
    page.wait_for_function("document.querySelector('#ls-curation .ls-cell.current').dataset.id === '3'")
    assert decision(project, 3) == "new"
    assert watch.faults == []
