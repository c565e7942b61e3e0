"""Gathering in a real browser: a weak line, hostile names, stop and go on, the clipboard, whom to thank."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from lora_studio.core.project import Plan, Project
from tests.conftest import draw_picture
from tests.e2e.tunnel import tunnel

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HOSTILE = "<img src=x onerror=window.hurt=1>"
TRANSFER = """(files) => {
  const transfer = new DataTransfer();
  for (const [name, type, data] of files) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, {type}));
  }
  return transfer;
}"""
PASTE = """(transfer) => document.body.dispatchEvent(
  new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}))"""


@pytest.fixture
def project(studio) -> Project:
    return Project.create(studio.projects, Plan(name="Gathered", trigger="zorbi"))


@pytest.fixture
def page(studio, browser, watch, project):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    watch.on(page)
    page.set_default_timeout(60_000)
    page.show = lambda address=studio.url: page.goto(f"{address}?project={project.slug}&step=gathering")
    return page


def transfer(page: Any, files: dict[str, bytes]) -> Any:
    """A DataTransfer of these files."""
    listed = [[name, "image/png", base64.b64encode(data).decode()] for name, data in files.items()]
    return page.evaluate_handle(TRANSFER, listed)


def noise(side: int) -> bytes:
    """A PNG that cannot be made small: about 3 bytes a pixel."""
    pixels = np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def test_large_files_come_whole_through_a_narrow_tunnel_that_breaks(page, studio, project):
    large = noise(1000)
    with tunnel(studio.port, limit=2**20, broken={2, 3}) as line:
        page.show(line.url)
        page.locator("#ls-from-files").wait_for()
        assert page.locator("#ls-from-path").count() == 0  # only the owner, on the machine itself, names its folders
        files = {"large.png": large, "small.png": draw_picture(3)}
        page.dispatch_event("#ls-gathering .ls-grid", "drop", {"dataTransfer": transfer(page, files)})
        page.locator("#ls-taken", has_text="large.png").wait_for()
        page.locator("#ls-taken", has_text="small.png").wait_for()
        assert line.too_large > 0 and line.largest <= 2**20 and line.uploads > 5
    originals = {image.name: project.original_path(image).read_bytes() for image in project.images()}
    assert originals == files


def test_each_file_is_named_with_what_became_of_it_and_whom_to_thank(page, watch, project, picture_folder):
    folder = picture_folder(3)
    (folder / f"{HOSTILE}.png").write_bytes(draw_picture(50))
    (folder / "torn.png").write_bytes(draw_picture(51)[:200])
    page.show()
    page.locator("#ls-from-path").click()
    page.locator("#ls-go-path").click()  # nothing is written there yet
    page.locator(".ls-field.bad", has_text="name a folder").wait_for()
    page.locator("#ls-source-paths").fill(str(folder))
    page.locator("#ls-thanks > summary").click()
    page.locator("#ls-source-licence").fill("CC BY 4.0")
    page.locator("#ls-go-path").click()

    page.locator("#ls-refused", has_text="torn.png").wait_for()
    page.locator("#ls-taken", has_text=HOSTILE).wait_for()
    page.locator("[data-result=refused]").click()
    page.locator("#ls-taken").wait_for(state="detached")
    page.locator("[data-result=all]").click()
    assert [image.licence for image in project.images()] == ["CC BY 4.0"] * 4

    page.locator("#ls-side-refused").click()
    page.locator("#ls-not-taken tr", has_text="torn.png").get_by_role("button", name="Forget").click()
    page.locator("#ls-not-taken").wait_for(state="detached")
    assert project.quarantined() == []

    page.locator("#ls-side-origins").click()
    page.locator(".ls-cell").first.click()
    page.keyboard.press("Control+a")
    page.locator("#ls-origins", has_text="Origin of 4 pictures").wait_for()
    page.locator("#ls-origin-author").fill(HOSTILE)
    page.locator("#ls-origin-author").press("Enter")
    page.locator("#ls-undo:enabled", has_text="Origin of 4 pictures").wait_for()
    assert {image.author for image in project.images()} == {HOSTILE}
    page.locator("#ls-credits").click()
    page.locator("#ls-credit-rows", has_text=HOSTILE).wait_for()
    page.keyboard.press("Escape")
    page.locator("#ls-undo").click()
    page.wait_for_function("document.querySelector('#ls-origin-author')?.value === ''")
    assert {image.author for image in project.images()} == {""}
    assert page.evaluate("window.hurt") is None
    assert watch.faults == []


def test_an_import_that_was_stopped_goes_on_with_the_files_that_were_dropped(page, watch, studio, project):
    busy = FileLock(studio.projects / ".gpu.lock")  # as another job would hold it
    page.show()
    with busy:
        files = {f"{number}.png": draw_picture(number) for number in range(3)}
        page.locator("#ls-from-files").wait_for()
        page.dispatch_event("#ls-gathering .ls-grid", "drop", {"dataTransfer": transfer(page, files)})
        page.locator("#ls-import", has_text="Waiting for another job").wait_for()
        page.locator("#ls-stop-import").click()
        page.locator("#ls-import", has_text="Stopped").wait_for()
    assert project.images() == []
    watch.reload(page)
    page.locator("#ls-side-results").click()
    page.locator("#ls-again", has_text="Go on").click()
    page.locator("#ls-import", has_text="Done").wait_for()
    assert sorted(image.name for image in project.images()) == sorted(files)
    assert watch.faults == []


def test_pictures_and_addresses_are_pasted(page, watch, project):
    page.show()
    page.locator("#ls-from-files").wait_for()
    text = page.evaluate_handle(
        "(text) => { const transfer = new DataTransfer(); transfer.setData('text/plain', text); return transfer; }",
        "https://a.test/1.png\nhttps://a.test/2.png",
    )
    page.evaluate(PASTE, text)
    page.wait_for_function(
        "document.querySelector('#ls-source-urls')?.value === 'https://a.test/1.png\\nhttps://a.test/2.png'"
    )
    page.evaluate(PASTE, transfer(page, {"image.png": draw_picture(9)}))
    page.locator("#ls-taken", has_text="pasted ").wait_for()
    assert project.images()[0].name.startswith("pasted 20") and project.images()[0].name.endswith(".png")
    assert watch.faults == []
