"""The large editor as a person uses it: crops, the mask, and what is trained of a picture."""

import io

import pytest
from PIL import Image as Pil
from PIL import ImageDraw

from lora_studio.core.project import Plan, Project
from lora_studio.steps import crops, gathering, training

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def figure(size: tuple[int, int], colour: str) -> bytes:
    """A picture of one plain figure, left of the middle, before a pale wall."""
    picture = Pil.new("RGB", size, "#dfe4ea")
    width, height = size
    pen = ImageDraw.Draw(picture)
    pen.ellipse((0.18 * width, 0.2 * height, 0.48 * width, 0.85 * height), fill=colour)
    pen.rectangle((0.25 * width, 0.4 * height, 0.4 * width, 0.5 * height), fill="#20242c")
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def project(studio, tmp_path) -> Project:
    project = Project.create(
        studio.projects, Plan(name="Shapes", trigger="zorbi", defining=("scar on the left cheek",))
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (size, colour) in enumerate(
        [((640, 400), "#b03060"), ((400, 400), "#3060b0"), ((420, 420), "#30b060")]
    ):
        (folder / f"figure {number}.png").write_bytes(figure(size, colour))
    gathering.gather(project, [folder])
    config = training.current(project)
    changes = {"objective.mask_outside": 1.0, "data.flip": True, "data.batch_size": 2, "data.repeats": 1}
    training.save_current(project, config.with_changes(changes))
    return project


@pytest.fixture
def page(studio, browser, watch, project):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    watch.on(page)
    page.set_default_timeout(60_000)
    page.goto(f"{studio.url}?project={project.slug}&step=curation")
    page.locator(".ls-cell[data-id='1']").click()
    page.saved = lambda label: page.locator("#ls-undo", has_text=label).wait_for()
    page.gone = lambda: page.locator("dialog.ls-shape").wait_for(state="detached")
    return page


def opened(page, tab: str = "crop") -> None:
    """Open the editor by its key and go to a tab."""
    page.keyboard.press("e")
    page.locator("dialog.ls-shape[open]").wait_for()
    page.locator("#ls-crop-add").wait_for()
    page.locator(f".ls-shape [data-mode={tab}].ls-segment").click()


def sheet(page, x: float, y: float) -> tuple[float, float]:
    """Where a place of the picture, in shares, lies on the screen."""
    box = page.locator(".ls-sheet").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*sheet(page, *start))
    page.mouse.down()
    page.mouse.move(*sheet(page, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    page.mouse.move(*sheet(page, *end))
    page.mouse.up()


def numbers(page) -> list[int]:
    return [int(page.locator(f".ls-numbers input[data-edge={edge}]").input_value()) for edge in "xywh"]


def test_crops_are_drawn_typed_nudged_added_and_removed_and_saved_as_one_step(page, watch, project):
    opened(page)
    drag(page, (0.1, 0.1), (0.6, 0.9))  # round a whole picture a new crop is drawn
    x, y, width, height = numbers(page)
    assert abs(x - 64) < 8 and abs(y - 40) < 8 and abs(width - 320) < 10 and abs(height - 320) < 10
    page.locator(".ls-numbers input[data-edge=w]").fill("300")
    page.keyboard.press("Tab")
    page.locator("dialog.ls-shape").focus()
    page.keyboard.press("Control+ArrowRight")
    assert numbers(page) == [x + 1, y, 300, height]
    page.keyboard.press("Control+z")
    assert numbers(page) == [x, y, 300, height]

    page.locator(".ls-shape button", has_text="1:1").click()
    square = numbers(page)
    assert square[2] == square[3]
    page.locator("#ls-shape-aspect option").nth(1).wait_for(state="attached")
    page.locator("#ls-shape-aspect").select_option(index=1)
    shape = page.locator("#ls-shape-aspect").input_value().split(":")
    wide, high = numbers(page)[2:]
    assert abs(wide / high - int(shape[0]) / int(shape[1])) < 0.02

    page.locator("#ls-crop-add").click()
    page.keyboard.press("a")
    assert page.locator(".ls-crop-row").count() == 3
    page.keyboard.press("Delete")
    page.locator(".ls-crop-row.current", has_text="Crop 2").wait_for()
    page.keyboard.press("n")
    page.locator(".ls-crop-row.current", has_text="Crop 1").wait_for()
    page.keyboard.press("Control+s")
    page.gone()
    page.saved("2 crops")
    assert len(project.image(1).crops) == 2
    page.locator(".ls-cell .ls-badge", has_text="2 crops").wait_for()
    page.keyboard.press("u")
    page.locator(".ls-cell .ls-badge", has_text="2 crops").wait_for(state="detached")
    assert project.image(1).crops == (None,)
    assert watch.faults == []


def test_what_is_not_saved_is_asked_about_and_then_forgotten(page, project):
    opened(page)
    page.locator("#ls-crop-subject").click()
    page.locator(".ls-shape[data-dirty=yes]").wait_for()
    left, _, right, _ = (edge / 640 for edge in [*numbers(page)[:3], 0])
    assert left < 0.2 and right < 0.45
    page.keyboard.press("Escape")
    page.locator("dialog", has_text="Leave without saving?").locator("button", has_text="Leave").click()
    page.gone()
    assert project.image(1).crops == (None,)


def test_a_mask_is_found_painted_taken_back_and_saved(page, watch, project):
    opened(page, "mask")
    page.locator("#ls-mask-counts", has_text="the whole picture is learned").wait_for()
    drag(page, (0.7, 0.3), (0.9, 0.3))
    page.locator("#ls-mask-counts", has_text="switched off").wait_for()
    page.locator("#ls-use-masks").click()
    page.locator("#ls-mask-counts", has_text="the rest is left out").wait_for()
    assert training.current(project).objective.mask_outside == 0
    page.keyboard.press("Control+z")
    page.locator("#ls-mask-counts", has_text="Nothing is painted").wait_for()

    page.locator("#ls-find-in-box").click()
    drag(page, (0.1, 0.1), (0.6, 0.95))
    page.locator("#ls-mask-counts", has_text="What is painted is learned").wait_for()
    page.keyboard.press("e")
    drag(page, (0.33, 0.7), (0.33, 0.72))  # a bite out of the figure
    page.locator("#ls-shape-save").click()
    page.gone()
    page.saved("Mask")
    with Pil.open(project.mask_path(project.image(1))) as mask:
        assert (mask.mode, mask.size) == ("L", (640, 400))
        values = [
            mask.getpixel((int(x * 640), int(y * 400)))
            for x, y in [(0.33, 0.35), (0.9, 0.3), (0.05, 0.05), (0.33, 0.71)]
        ]
    assert values == [255, 0, 0, 0]

    opened(page, "mask")  # what was saved comes back, and can be turned round
    page.locator("#ls-mask-counts", has_text="What is painted is learned").wait_for()
    page.keyboard.press("i")
    page.keyboard.press("Control+s")
    page.gone()
    with Pil.open(project.mask_path(project.image(1))) as mask:
        assert [mask.getpixel(place) for place in [(211, 140), (576, 120)]] == [0, 255]
    assert watch.faults == []


def test_the_preview_shows_the_very_pixels_and_the_shapes_lead_to_their_pictures(page, watch, project):
    opened(page, "trained")
    shot = page.locator(".ls-pixels img")
    page.wait_for_function("document.querySelector('.ls-pixels img')?.complete")
    expected = crops.trained_pixels(project, training.current(project), 1)
    size = [shot.evaluate("one => one.naturalWidth"), shot.evaluate("one => one.naturalHeight")]
    assert size == list(expected.size)
    answer = page.request.get(shot.evaluate("one => one.src"))
    with Pil.open(io.BytesIO(answer.body())) as shown:
        assert shown.tobytes() == expected.tobytes()
    page.locator(".ls-lost").wait_for(state="attached")
    page.locator("#ls-mirroring", has_text="also trained mirrored").wait_for()
    page.locator(".ls-shape", has_text="scar on the left cheek").wait_for()
    page.locator("#ls-mirror-off").click()
    page.locator("#ls-mirroring", has_text="left stays left").wait_for()
    assert training.current(project).data.flip is False

    page.locator("#ls-small-buckets", has_text="fill a batch of 2").wait_for()
    page.locator(".ls-bucket.short").click()
    page.gone()
    page.wait_for_function("document.querySelectorAll('#ls-curation .ls-cell').length === 1")
    assert page.locator(".ls-cell[data-id='1']").count() == 1
    assert watch.faults == []


def test_a_finger_paints_and_two_zoom(studio, browser, watch, project):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, has_touch=True)
    page = context.new_page()
    watch.on(page)
    page.set_default_timeout(60_000)
    page.goto(f"{studio.url}?project={project.slug}&step=curation")
    page.locator("#ls-shape-open").tap()
    page.locator(".ls-shape [data-mode=mask].ls-segment").tap()
    page.locator("#ls-mask-counts").wait_for()
    touch = context.new_cdp_session(page)

    def send(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(sheet(page, *one) for one in places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", (0.3, 0.3))
    send("touchMove", (0.5, 0.5))
    send("touchEnd")
    page.locator("#ls-mask-counts", has_text="Masks are switched off").wait_for()
    before = page.locator(".ls-sheet-view").get_attribute("data-scale")
    send("touchStart", (0.45, 0.5), (0.55, 0.5))
    send("touchMove", (0.3, 0.5), (0.7, 0.5))
    send("touchEnd")
    page.wait_for_function("before => document.querySelector('.ls-sheet-view').dataset.scale !== before", arg=before)
    page.locator("#ls-mask-undo").tap()  # the pinch painted nothing: one stroke is taken back, and all is empty
    page.locator("#ls-mask-counts", has_text="Nothing is painted").wait_for()
    assert watch.faults == []
