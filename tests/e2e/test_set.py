"""The whole set as a person judges it: grade, copies and map, in a real browser before a real studio."""

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering, training
from tests.conftest import draw_picture
from tests.looked import look_at

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def make(studio, picture_folder, tagger: str = "starter", count: int = 24) -> Project:
    project = Project.create(studio.projects, Plan(name="Whole", trigger="zorbi", tagger=tagger))
    folder = picture_folder(count)
    for seed in (3, 5):
        (folder / f"twin {seed}.jpg").write_bytes(draw_picture(seed, form="JPEG"))
    (folder / "wide.png").write_bytes(draw_picture(90, (160, 60)))
    gathering.gather(project, [folder])
    config = training.current(project).with_changes({"data.repeats": 1, "data.batch_size": 3})
    training.save_current(project, config)
    return project


@pytest.fixture
def project(studio, picture_folder) -> Project:
    project = make(studio, picture_folder)
    look_at(project, (["red hair", "red shirt"], ["blue hair", "red shirt"]))
    return project


@pytest.fixture
def visit(studio, browser, watch):
    def visited(project: Project):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        watch.on(page)
        page.set_default_timeout(60_000)
        page.goto(f"{studio.url}?project={project.slug}&step=curation")
        page.locator("#ls-accept-all").wait_for()
        page.saved = lambda label: page.locator("#ls-undo", has_text=label).wait_for()
        return page

    return visited


def test_the_grade_says_why_and_leads_to_the_pictures_and_to_gathering(studio, visit, watch, picture_folder):
    project = make(studio, picture_folder, count=8)
    look_at(project, (["red hair", "red shirt"],))
    page = visit(project)
    page.locator("#ls-view-set").click()
    page.locator("#ls-gauge-consistency .ls-gauge-bar i").wait_for()
    assert page.locator("#ls-grade").inner_text() in tuple("ABCDEF")
    assert page.locator(".ls-unknown").count() == 0
    assert "stand" in page.locator("#ls-gauge-consistency .ls-gauge-why").inner_text()
    page.locator("tr[data-aspect=angle] .ls-faint", has_text="Nothing is known of the angle").wait_for()
    page.locator("tr[data-aspect=outfit]", has_text="red shirt").wait_for()
    page.locator("tr[data-aspect=framing] .ls-missing", has_text="close-up").wait_for()

    page.locator(".ls-small-buckets .ls-value-chip").click()
    page.wait_for_function("document.querySelectorAll('#ls-curation .ls-cell').length === 1")
    assert "wide.png" in page.locator("#ls-curation .ls-cell").inner_text()

    page.locator("#ls-view-set").click()
    button = page.locator(".ls-todo").get_by_role("button", name="Show").first
    count = int(button.inner_text().split()[1])
    button.click()
    page.wait_for_function("(count) => document.querySelectorAll('#ls-curation .ls-cell').length === count", arg=count)

    page.locator("#ls-view-set").click()
    page.locator("tr[data-aspect=outfit] .ls-value-chip").click()
    page.locator(".ls-filter", has_text="outfit: red shirt").wait_for()

    page.locator("#ls-view-set").click()
    page.locator(".ls-todo").get_by_role("button", name="Gather more").first.click()
    page.wait_for_function("document.body.dataset.step === 'gathering'")
    assert watch.faults == []


def test_what_nobody_has_looked_at_is_said_to_be_unknown(studio, visit, picture_folder):
    project = make(studio, picture_folder, tagger="/no/tagger/here")
    page = visit(project)
    page.locator("#ls-view-set").click()
    page.locator(".ls-unknown", has_text="Not known yet: likeness").wait_for()
    page.locator("#ls-gauge-consistency .unknown", has_text="not known yet").wait_for()
    assert page.locator("#ls-gauge-consistency .ls-gauge-bar i").count() == 0
    page.locator("tr[data-aspect=angle]", has_text="not known yet").wait_for()
    page.locator("#ls-view-map").click()
    page.locator(".ls-map-empty", has_text="Where each picture lies is not known yet").wait_for()
    page.locator(".ls-map-empty", has_text="There is no tagger at /no/tagger/here").wait_for()


def test_copies_are_settled_one_by_one_swapped_and_all_at_once(visit, watch, project):
    page = visit(project)
    page.locator("#ls-view-copies").click()
    groups = page.locator("#ls-copies > .ls-copy-group")
    page.wait_for_function("document.querySelectorAll('#ls-copies > .ls-copy-group').length === 2")
    first = groups.first
    ids = [int(one.get_attribute("data-id")) for one in first.locator(".ls-copy").all()]
    assert int(first.locator(".ls-copy.keep").get_attribute("data-id")) == ids[0]
    assert "Proposed:" in first.inner_text() and "nearly the same" in first.inner_text()

    page.keyboard.press("ArrowRight")  # the other one
    assert int(groups.first.locator(".ls-copy.keep").get_attribute("data-id")) == ids[1]
    page.keyboard.press("k")
    page.saved(f"Keep #{ids[1]}, reject 1 like it")
    assert [project.image(one).decision for one in ids] == ["reject", "keep"]
    page.wait_for_function("document.querySelectorAll('#ls-copies > .ls-copy-group').length === 1")
    page.keyboard.press("u")
    page.wait_for_function("document.querySelectorAll('#ls-copies > .ls-copy-group').length === 2")

    groups.nth(1).get_by_role("button", name="Keep both").click()
    page.saved("Keep 2 pictures")
    page.locator(".ls-settled summary", has_text="1 group of which you kept all").wait_for()
    page.keyboard.press("u")
    page.wait_for_function("document.querySelectorAll('#ls-copies > .ls-copy-group').length === 2")

    page.locator("#ls-settle-all").click()
    page.saved("Keep the best of 2 groups, reject 2 like them")
    page.locator("#ls-copies .ls-empty").wait_for()
    assert [image.decision for image in project.images()].count("reject") == 2
    assert watch.faults == []


def test_pictures_are_selected_on_the_map_and_decided_there(visit, watch, project):
    page = visit(project)
    page.locator("#ls-view-map").click()
    canvas = page.locator(".ls-map-canvas")
    page.locator(".ls-map-group", has_text="red hair").click()
    shown = "(count) => document.querySelector('.ls-map-canvas').dataset.selected === String(count)"
    page.wait_for_function(shown, arg=14)
    page.keyboard.press("k")
    page.saved("Keep 14 pictures")
    assert {project.image(one).decision for one in range(1, 28, 2)} == {"keep"}

    page.locator("#ls-apart").click()
    page.wait_for_function(shown, arg=1)
    page.locator("#ls-map-reject").click()
    page.saved("Reject 1 picture")
    assert project.image(27).decision == "reject"
    page.keyboard.press("u")
    page.locator("#ls-toasts", has_text="Undone: Reject 1 picture").wait_for()

    page.keyboard.press("Escape")
    page.wait_for_function(shown, arg=0)
    page.locator("#ls-tool-lasso").click()
    box = canvas.bounding_box()
    left, top, right, bottom = box["x"] + 2, box["y"] + 50, box["x"] + box["width"] - 2, box["y"] + box["height"] - 5
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    page.wait_for_function(shown, arg=27)
    page.keyboard.press("Escape")

    page.locator("#ls-tool-move").click()
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.wheel(0, -600)
    page.wait_for_function("Number(document.querySelector('.ls-map-canvas').dataset.scale) > 2")
    page.keyboard.press("0")
    page.wait_for_function("document.querySelector('.ls-map-canvas').dataset.scale === '1.00'")
    page.keyboard.press("Control+a")
    page.wait_for_function(shown, arg=27)
    page.get_by_role("button", name="Show them in Pictures").click()
    page.locator(".ls-filter", has_text="selected on the map").wait_for()
    assert watch.faults == []
