"""The caption editor as a person uses it: nearly all by keyboard, in a real browser before a real studio."""

import json

import pytest

from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, gathering, looking

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CHIPS = """() => [...document.querySelectorAll('#ls-tagging .ls-tag')].map((chip) =>
  [...chip.childNodes].find((node) => node.nodeType === Node.TEXT_NODE).data)"""
CAPTIONS = ("zorbi, smile, red hat", "zorbi, red hat, forest", "zorbi, smile", "zorbi, cap", "zorbi, smile, cap", "")


@pytest.fixture
def project(studio, picture_folder) -> Project:
    project = Project.create(studio.projects, Plan(name="Words", trigger="zorbi"))
    gathering.gather(project, [picture_folder(6)])
    for image, text in zip(project.images(), CAPTIONS, strict=True):
        captioning.set_text(project, image.id, text)
    return project


@pytest.fixture
def opened(studio, browser, watch, project):
    """Opens a page on the editor, with helpers that wait for what is shown and what is saved."""

    def make():
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        watch.on(page)
        page.set_default_timeout(60_000)
        page.goto(f"{studio.url}?project={project.slug}&step=tagging")
        page.locator("#ls-tagging .ls-cell.current").wait_for()
        page.locator("#ls-tagging .ls-tag").first.wait_for()
        page.chips = lambda *tags: page.wait_for_function(
            f"(tags) => JSON.stringify(({CHIPS})()) === tags", arg=compact(tags)
        )
        page.at = lambda number: page.wait_for_function(
            "(id) => document.querySelector('#ls-tagging .ls-cell.current')?.dataset.id === id", arg=str(number)
        )
        page.keys = lambda *names: [page.keyboard.press(name) for name in names]
        page.undoes = lambda label: page.locator("#ls-undo", has_text=label).wait_for()
        return page

    return make


@pytest.fixture
def page(opened):
    return opened()


def compact(tags) -> str:
    return json.dumps(list(tags), ensure_ascii=False, separators=(",", ":"))


def caption(project: Project, image_id: int) -> str:
    return project.image(image_id).caption


def saved(page, project: Project, image_id: int, text: str) -> None:
    """Wait until the disk holds the text."""
    for _ in range(600):
        if caption(project, image_id) == text:
            return
        page.wait_for_timeout(100)
    assert caption(project, image_id) == text


def test_tags_are_added_moved_changed_and_removed_by_keyboard(page, watch, project):
    page.keys("t")
    page.keyboard.type("fore")
    page.locator(".ls-word", has_text="forest").first.wait_for()
    page.keys("ArrowDown", "Enter")
    page.chips("zorbi", "smile", "red hat", "forest")
    page.keyboard.type("blue sky, night,")
    page.chips("zorbi", "smile", "red hat", "forest", "blue sky", "night")
    page.keys("Backspace")
    page.chips("zorbi", "smile", "red hat", "forest", "blue sky")
    page.keys("ArrowLeft", "Alt+ArrowLeft", "Alt+ArrowLeft")
    page.chips("zorbi", "smile", "blue sky", "red hat", "forest")
    page.keys("Delete")
    page.chips("zorbi", "smile", "red hat", "forest")
    page.keys("Enter")  # the tag that has the focus now goes into the field
    page.keyboard.type("cap")
    page.keys("Enter")
    page.chips("zorbi", "smile", "cap", "forest")
    saved(page, project, 1, "zorbi, smile, cap, forest")
    page.keys("Control+z", "Control+z", "Control+Shift+z")
    page.chips("zorbi", "smile", "red hat", "forest")
    saved(page, project, 1, "zorbi, smile, red hat, forest")
    assert watch.faults == []


def test_the_trigger_stays_first_whatever_is_typed(page, watch, project):
    page.keys("c", "Alt+ArrowLeft", "Home", "Alt+ArrowRight", "Delete")  # none of it moves or removes the trigger
    page.chips("zorbi", "smile", "red hat")
    page.keys("Escape", "w")
    page.keyboard.press("Control+a")
    page.keyboard.type("forest, smile, zorbi, smile")
    page.keys("Escape")
    page.chips("zorbi", "forest", "smile")
    saved(page, project, 1, "zorbi, forest, smile")
    page.keys("End", "t")  # the last picture has no caption yet: the trigger waits for the first tag
    page.locator(".ls-tag.trigger.lacking").wait_for()
    page.keyboard.type("hat")
    page.keys("Enter")
    saved(page, project, 6, "zorbi, hat")
    assert watch.faults == []


def test_going_on_keeps_the_field_and_quick_tags_work_on_one_or_many(page, watch, project):
    page.keys("t", "ArrowDown", "ArrowDown")
    page.at(3)
    page.keyboard.type("night")
    page.keys("Enter", "ArrowUp")
    page.at(2)
    page.keys("PageDown", "Escape", "q")
    page.locator("#ls-quick-keep").wait_for()
    page.keyboard.type("sitting")
    page.keys("Enter")
    page.keyboard.type("cap")
    page.keys("Enter")
    page.locator("#ls-quick-keep").click()
    page.locator(".ls-quick-tag", has_text="cap").wait_for()
    assert project.plan.quick_tags == ("sitting", "cap")
    page.locator(".ls-cell[data-id='3']").click()
    page.keys("1")
    saved(page, project, 3, "zorbi, smile, night, sitting")
    page.keys("1")
    saved(page, project, 3, "zorbi, smile, night")
    page.keys("Shift+ArrowRight", "Shift+ArrowRight", "2")  # two of the three have it: the third gets it
    page.undoes("Add cap")
    assert [caption(project, one) for one in (3, 4, 5)] == [
        "zorbi, smile, night, cap",
        "zorbi, cap",
        "zorbi, smile, cap",
    ]
    page.locator(".ls-quick-tag.on", has_text="cap").wait_for()
    page.keys("2")
    page.undoes("Remove cap")
    assert [caption(project, one) for one in (3, 4, 5)] == ["zorbi, smile, night", "zorbi", "zorbi, smile"]
    page.keys("u")
    page.undoes("Add cap")
    saved(page, project, 4, "zorbi, cap")
    assert watch.faults == []


def test_tags_are_copied_from_one_picture_to_many(page, watch, project):
    page.keys("ArrowRight", "Control+c", "ArrowRight", "ArrowRight", "Shift+ArrowRight", "Control+v")
    page.undoes("Add zorbi, red hat, forest")
    assert caption(project, 4) == "zorbi, cap, red hat, forest"
    assert caption(project, 5) == "zorbi, smile, cap, red hat, forest"
    assert caption(project, 3) == "zorbi, smile"
    page.locator(".ls-tag-title", has_text="2 pictures chosen").wait_for()
    assert page.locator(".ls-tag.part", has_text="smile").count() == 1  # one of the two has it
    assert watch.faults == []


def test_what_the_tagger_saw_is_taken_over_with_one_key(opened, watch, project):
    found = {"smile": 0.99, "green hair": 0.97, "night": 0.8, "zorbi": 0.9}
    key = looking.names(project.plan)["scores"]
    Looks(project.folder).put(key, {project.image(1).sha256: json.dumps(found).encode()})
    page = opened()
    ghosts = page.locator(".ls-ghost")
    ghosts.first.wait_for()
    assert [one.inner_text().split("\n")[0].split("9")[0].split("8")[0].strip() for one in ghosts.all()] == [
        "green hair",
        "night",
    ]
    page.keys("a")
    page.chips("zorbi", "smile", "red hat", "green hair")
    page.keys("t", "ArrowRight")
    saved(page, project, 1, "zorbi, smile, red hat, green hair, night")
    ghosts.first.wait_for(state="detached")
    assert watch.faults == []


def test_the_filter_and_the_tag_list_narrow_the_grid_together(page, watch, project):
    page.keys("/")
    page.keyboard.type("tag:smile and tags < 4")
    page.keys("Enter")
    page.locator(".ls-shown", has_text="3 of 6 pictures").wait_for()
    page.keys("l")
    page.keyboard.type("ca")
    page.keys("ArrowDown", "Enter")  # only those with it
    page.locator(".ls-shown", has_text="1 of 6 pictures").wait_for()
    page.at(5)
    page.keys("Enter")  # all but those
    page.locator(".ls-shown", has_text="2 of 6 pictures").wait_for()
    page.locator(".ls-filter", has_text="not cap").click()
    page.keys("l", "Escape", "Escape", "/")
    page.keyboard.type("smil")
    page.keys("Escape", "Escape")
    page.wait_for_function("document.querySelector('.ls-shown').textContent === ''")
    page.locator(".ls-tagrow", has_text="no tags").click()
    page.at(6)
    page.keys("t")
    page.keyboard.type("hat")
    page.keys("Enter")
    saved(page, project, 6, "zorbi, hat")
    page.at(6)  # it has tags now, and stays under the hands all the same
    assert watch.faults == []


def test_sentences_are_written_whole_and_their_length_is_told(page, watch, project):
    page.locator("#ls-mode-both").click()
    page.locator("#ls-prose").wait_for()
    page.locator(".ls-cell[data-id='2']").click()
    page.keys("d")
    text = "A figure, in a red hat, stands in the forest."
    page.keyboard.type(text)
    page.keys("Control+Enter")  # saves it, and goes on without leaving the field
    page.at(3)
    page.keyboard.type("B")
    page.keys("Escape")
    page.locator("#ls-undo").wait_for()
    for _ in range(600):
        if project.image(3).prose == "B":
            break
        page.wait_for_timeout(100)
    assert (project.image(2).prose, project.image(3).prose) == (text, "B")
    assert project.plan.captions == "both" and caption(project, 2) == "zorbi, red hat, forest"
    page.locator("#ls-mode-prose").click()
    page.locator(".ls-cell[data-id='2']").click()
    page.locator(".ls-encoder", has_text="/ 225").wait_for()
    assert not page.locator("#ls-tagging .ls-tag").first.is_visible()
    assert watch.faults == []


def test_the_exact_cut_of_a_long_caption_is_marked(page, watch, project):
    page.keys("w")
    page.locator("#ls-raw").fill(", ".join(f"a long tag number {number}" for number in range(60)))
    page.keys("Escape")
    page.locator(".ls-encoder.over").wait_for()
    page.locator(".ls-tag.cut").first.wait_for()
    page.wait_for_function("document.querySelector('#ls-cut del')?.textContent.endsWith('number 59')")
    kept, cut = page.evaluate(
        "[document.querySelector('#ls-cut span').textContent, document.querySelector('#ls-cut del').textContent]"
    )
    whole = caption(project, 1)
    assert whole.endswith(kept.removeprefix("…") + cut) and cut
    first = page.locator(".ls-tag.cut").first.inner_text()
    assert first.split("\n")[0].strip() in whole[len(whole) - len(cut) - 40 :]
    assert watch.faults == []


def test_two_tabs_on_one_caption_lose_nothing(opened, watch, project):
    first, second = opened(), opened()
    second.route(
        "**/component_server*",
        lambda route: route.abort() if "overview" in (route.request.post_data or "") else route.continue_(),
    )
    first.keys("t")
    first.keyboard.type("night")
    first.keys("Enter")
    saved(first, project, 1, "zorbi, smile, red hat, night")
    second.keys("t")
    second.keyboard.type("forest")
    second.keys("Enter")
    second.locator("#ls-clash").wait_for()
    assert second.locator("#ls-clash-theirs").inner_text() == "zorbi, smile, red hat, night"
    assert second.locator("#ls-clash-mine").inner_text() == "zorbi, smile, red hat, forest"
    assert caption(project, 1) == "zorbi, smile, red hat, night"
    second.locator("#ls-clash-join").click()
    saved(second, project, 1, "zorbi, smile, red hat, night, forest")
    second.locator("#ls-clash").wait_for(state="detached")


def test_a_change_of_many_captions_is_seen_before_it_is_done(page, watch, project):
    page.keys("b")
    page.locator("#ls-bulk-do").select_option("rename")
    page.locator("#ls-bulk-tag").fill("red hat")
    page.locator("#ls-bulk-new").fill("blue hat, feather")
    page.locator(".ls-diff-told", has_text="2 captions change").wait_for()
    assert [row.get_attribute("data-id") for row in page.locator(".ls-diff-row[data-id]").all()] == ["1", "2"]
    page.locator("#ls-diff-apply").click()
    page.chips("zorbi", "smile", "blue hat", "feather")
    assert caption(project, 2) == "zorbi, blue hat, feather, forest"
    page.locator(".ls-toast .ls-link", has_text="Undo").click()
    page.chips("zorbi", "smile", "red hat")
    assert [image.caption for image in project.images()] == list(CAPTIONS)
    page.locator(".ls-cell[data-id='4']").click()
    page.keys("Shift+ArrowRight", "b")
    page.locator("#ls-bulk-tag").fill("night")
    page.locator(".ls-diff-told", has_text="2 captions change").wait_for()  # the chosen ones
    page.keys("Escape")
    assert watch.faults == []


def test_many_pictures_and_tags_keep_the_page_light(opened, project, picture_folder):
    gathering.gather(project, [picture_folder(60)])
    for image in project.images():
        tags = ", ".join(f"tag {image.id} {number}" for number in range(15))
        captioning.set_text(project, image.id, f"zorbi, {tags}")
    page = opened()
    page.set_viewport_size({"width": 1920, "height": 1080})
    page.wait_for_function("document.querySelectorAll('#ls-tagging .ls-cell').length > 25")
    assert page.evaluate("document.querySelectorAll('.ls-tagrow').length") < 60
    assert page.evaluate("document.querySelectorAll('*').length") < 1000
