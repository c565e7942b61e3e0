"""What only a mouse can show: cropping, dropping files, changing many captions, two pictures under a slider."""

import base64
import json

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, gathering, testing
from lora_studio.steps.grid import keep_cells
from tests.conftest import draw_picture

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def project(studio, picture_folder) -> Project:
    project = Project.create(studio.projects, Plan(name="Hands on", trigger="zorbi"))
    gathering.gather(project, [picture_folder(8)])
    return project


@pytest.fixture
def page(studio, browser, watch, project):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    watch.on(page)
    page.set_default_timeout(60_000)
    page.show = lambda step: page.goto(f"{studio.url}?project={project.slug}&step={step}")
    return page


def dragged(page, selector: str, right: float, down: float) -> None:
    """Press on the middle of an element, move by that many pixels, let go."""
    box = page.locator(selector).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right / 2, y + down / 2)
    page.mouse.move(x + right, y + down)
    page.mouse.up()


def test_a_crop_by_mouse_changes_the_training_shape_and_stays(page, watch, project):
    page.show("curation")
    page.locator(".ls-cell").first.click()
    shape = page.locator(".ls-crop-line .ls-chip")
    shape.wait_for()
    whole = shape.inner_text()
    stage = page.locator(".ls-crop-stage").bounding_box()
    dragged(page, ".ls-crop-handle.e", -stage["width"] / 2, 0)
    page.wait_for_function(
        "before => document.querySelector('.ls-crop-line .ls-chip').textContent !== before", arg=whole
    )
    page.locator(".ls-crop-tools button", has_text="Save crop").click()
    page.locator(".ls-cell .ls-badge", has_text="cropped").wait_for()
    page.wait_for_function(  # half a square is an upright shape; those of the way there come first
        "() => { const [w, h] = document.querySelector('.ls-crop-line .ls-chip').textContent.split(' × ').map(Number);"
        " return w <= 0.6 * h; }"
    )
    cropped = shape.inner_text()
    watch.reload(page)
    page.locator(".ls-cell .ls-badge", has_text="cropped").wait_for()
    page.locator(".ls-cell").first.click()
    page.wait_for_function(
        "shape => document.querySelector('.ls-crop-line .ls-chip')?.textContent === shape", arg=cropped
    )
    left, top, right, bottom = project.image(1).crop
    assert (left, top, bottom) == (0, 0, 1) and 0.4 < right < 0.6
    assert watch.faults == []


def test_dropped_files_are_taken_in_with_their_captions(page, watch, project):
    before = len(project.images())
    page.show("gathering")
    page.locator(".ls-cell").first.wait_for()
    files = [
        ["new.png", "image/png", base64.b64encode(draw_picture(500)).decode()],
        ["new.txt", "text/plain", base64.b64encode("zorbi, dropped in, ü".encode()).decode()],
        ["notes.png", "image/png", base64.b64encode(b"no picture").decode()],
    ]
    transfer = page.evaluate_handle(
        """(files) => {
          const transfer = new DataTransfer();
          for (const [name, type, data] of files) {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, {type}));
          }
          return transfer;
        }""",
        files,
    )
    page.dispatch_event("#ls-gathering .ls-grid", "dragenter", {"dataTransfer": transfer})
    page.locator(".ls-drop-veil").wait_for()
    page.dispatch_event("#ls-gathering .ls-grid", "drop", {"dataTransfer": transfer})
    page.locator("#ls-refused", has_text="notes.png").wait_for()
    page.locator(".ls-cell", has_text="new.png").wait_for()
    images = {image.name: image for image in project.images()}
    assert len(images) == before + 1 and images["new.png"].caption == "zorbi, dropped in, ü"
    assert project.original_path(images["new.png"]).read_bytes() == draw_picture(500)
    assert watch.faults == []


def test_a_bulk_replace_says_what_it_will_do_and_is_undone(page, watch, project):
    for image in project.images():
        captioning.set_text(project, image.id, f"zorbi, {'red hat' if image.id <= 5 else 'cap'}, thing {image.id}")
    before = [image.caption for image in project.images()]
    page.show("tagging")
    page.locator("#ls-bulk-rename").click()
    page.locator("#ls-bulk-tag").fill("red hat")
    page.locator("#ls-bulk-new").fill("blue hat")
    page.locator(".ls-diff-told", has_text="5 captions change").wait_for()
    page.locator("#ls-diff-apply").click()
    page.locator(".ls-tagrow", has_text="blue hat").wait_for()
    assert [image.caption for image in project.images()] == [text.replace("red hat", "blue hat") for text in before]
    page.locator(".ls-toast .ls-link", has_text="Undo").click()
    page.locator(".ls-tagrow", has_text="red hat").wait_for()
    assert [image.caption for image in project.images()] == before
    assert watch.faults == []


def made_test(project: Project) -> None:
    """A finished test as its job leaves it, with other pictures in it."""
    checkpoint = project.folder / "runs" / "hands-on-1" / "checkpoints" / "hands-on-1-000001.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    test = testing.TestConfig(
        checkpoints=(checkpoint.relative_to(project.folder).as_posix(),), learn_prompts=("zorbi",)
    )
    folder = project.new_folder("tests", "test")
    (folder / "images").mkdir()
    for place, cell in enumerate(testing.cells(test)):
        (folder / cell.file).write_bytes(draw_picture(700 + place))
    keep_cells(folder, testing.cells(test))
    record = {"id": folder.name, "title": "Test", "target": testing.TARGET, "project": project.slug, "state": "done"}
    (folder / "job.json").write_text(json.dumps({**record, "created": 1.0}))
    (folder / "config.json").write_text(json.dumps({"test": test.to_dict()}))


def test_two_pictures_of_a_test_are_compared_under_a_slider(page, watch, project):
    made_test(project)
    page.show("testing")
    cells = page.locator(".ls-test-cell img")
    cells.nth(3).wait_for()
    cells.nth(0).click(modifiers=["Shift"])
    page.locator(".ls-test-cell.marked").wait_for()
    cells.nth(1).click(modifiers=["Shift"])
    page.locator(".ls-compare-stage").wait_for()
    sources = [image.get_attribute("src") for image in page.locator(".ls-compare-stage img").all()]
    assert sources == [cells.nth(0).get_attribute("src"), cells.nth(1).get_attribute("src")]
    page.wait_for_function(
        "[...document.querySelectorAll('.ls-compare-stage img')].every((image) => image.naturalWidth)"
    )

    def border() -> tuple[float, str]:
        line = page.locator(".ls-slider-line").bounding_box()
        return line["x"], page.locator(".ls-compare-stage img").nth(1).evaluate("(image) => image.style.clipPath")

    middle, half = border()
    dragged(page, ".ls-compare-stage", 150, 0)
    right, less = border()
    assert right - middle > 100 and half == "inset(0px 0px 0px 50%)" and less != half
    page.keyboard.press("Escape")
    page.locator(".ls-compare-stage").wait_for(state="detached")
    assert watch.faults == []
