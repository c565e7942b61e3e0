"""The import's inner workings: memory, order, stops."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import DataConfig
from lora_studio.engine.data import read_dataset
from lora_studio.engine.picture import Look, load_pixels
from lora_studio.judge import measures
from lora_studio.steps import importing, training
from lora_studio.steps.importing import Budget
from lora_studio.steps.sources.candidate import Candidate, Refused
from tests.conftest import draw_picture


@pytest.fixture
def project(projects: Path) -> Project:
    return Project.create(projects, Plan(name="x"))


def take(project: Project, found, should_stop=lambda: False, lines: list | None = None) -> importing.Gathered:
    tell = (lambda line: None) if lines is None else lines.append
    return importing.take_all(project, found, lambda: 0, lambda *told: None, should_stop, tell)


TEXT = "A robot, red,  in a hat. It, too, smiles."


@pytest.mark.parametrize(
    ("kind", "caption", "expected"),
    [
        ("tags", "a, b,A", ("a, b", "")),
        ("prose", f" {TEXT}\n", ("", TEXT)),
        ("prose", "a, b", ("", "a, b")),
        ("both", TEXT, ("", TEXT)),
        ("both", "a, b", ("a, b", "")),
    ],
)
def test_a_caption_comes_as_tags_or_as_sentences_as_the_project_has_them(projects, kind, caption, expected):
    project = Project.create(projects, Plan(name="x", captions=kind))
    known = Candidate("b.png", "", lambda: draw_picture(2), "a, b", tags=True, prose=TEXT)
    found = take(project, [Candidate("a.png", "", lambda: draw_picture(1), caption), known])
    first, second = project.images()
    assert (first.caption, first.prose) == expected and found.captions == 2
    assert (second.caption, second.prose) == ("a, b", TEXT), "what a source tells apart stays apart"


def test_memory_is_lent_up_to_the_limit_and_always_to_the_first_in_line():
    budget, order = Budget(100), []
    budget.take(0, 500)  # more than all there is: the first in line need not wait
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(lambda: (budget.take(1, 60), order.append(1)))
        third = pool.submit(lambda: (budget.take(2, 60), order.append(2)))
        assert order == []
        budget.advance()  # now the second is the first in line
        second.result(30)
        assert order == [1] and not third.done()
        budget.shrink(1, 10)
        third.result(30)
    assert order == [1, 2]


def test_who_waits_for_memory_is_let_go_when_the_import_ends():
    budget = Budget(100)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.take, 5, 200)
        budget.close()
        with pytest.raises(UserError):
            waiting.result(30)


def test_pictures_come_in_the_order_of_their_source_however_long_each_takes(project, monkeypatch):
    monkeypatch.setattr(importing, "WORKERS", 2)
    gate = threading.Event()

    def slow() -> bytes:
        assert gate.wait(30)
        return draw_picture(0)

    def quick() -> bytes:
        gate.set()
        return draw_picture(1)

    take(project, [Candidate("slow", "", slow), Candidate("quick", "", quick)])
    assert [image.name for image in project.images()] == ["slow", "quick"]


def test_a_stop_ends_the_wait_for_a_read_that_hangs_and_keeps_what_was_taken(project, monkeypatch):
    monkeypatch.setattr(importing, "WORKERS", 2)
    hanging, release = threading.Event(), threading.Event()

    def hang() -> bytes:
        hanging.set()
        release.wait(60)
        return draw_picture(1)

    found = [Candidate("a", "", lambda: draw_picture(0)), Candidate("b", "", hang), Candidate("c", "", hang)]
    try:
        result = take(project, found, hanging.is_set)
        assert result.stopped and not release.is_set()
        assert [image.name for image in project.images()] in ([], ["a"])
    finally:
        release.set()


def test_a_source_that_fails_on_the_way_keeps_what_it_gave(project):
    def source():
        yield Candidate("a", "", lambda: draw_picture(0))
        yield Refused("b", "no picture", "here")
        raise UserError("The site is down.")

    with pytest.raises(UserError, match="down"):
        take(project, source())
    assert [image.name for image in project.images()] == ["a"]
    assert [row["name"] for row in project.quarantined()] == ["b"]


def test_a_post_is_read_once_whatever_its_address_becomes(project):
    reads = []

    def read() -> bytes:
        reads.append(1)
        return draw_picture(0)

    def posts(url: str) -> list[Candidate]:
        return [Candidate("a", "", read, url=url, origin={"site": "danbooru", "post": 7, "rating": "g", "tags": {}})]

    lines: list = []
    take(project, posts("https://cdn.example/1"))
    take(project, posts("https://cdn.example/2"), lines=lines)
    assert len(reads) == 1
    assert [(line["result"], line["id"]) for line in lines] == [("already", project.images()[0].id)]


def test_each_new_picture_is_measured(project):
    take(project, [Candidate("a", "", lambda: draw_picture(0))])
    (image,) = project.images()
    found = measures.Measures.from_bytes(Looks(project.folder).get(measures.KEY, [image.sha256])[image.sha256])
    assert (found.sharpness, found.phash, found.signature) == (image.sharpness, image.phash, image.signature)


def test_another_background_changes_the_pixels_that_are_trained_and_shown(project):
    from PIL import Image

    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 32, 64))
    path = project.root / "clear.png"
    picture.save(path)
    take(project, [Candidate("clear", "", path.read_bytes)])
    seen = {}
    for colour in ("#ffffff", "#0000ff"):
        project.set_background(colour)
        run = project.folder / "runs" / colour[1:]
        training.write_text(run / "dataset.json", training.json.dumps(training.snapshot(project)))
        (entry,) = read_dataset(run / "dataset.json", DataConfig(resolution=64, bucket_step=8, bucket_min=32))
        pixels = load_pixels(entry, [Look()])[0]
        (image,) = project.images()
        shown = Image.open(project.thumb_path(image)).convert("RGB").getpixel((60, 32))
        assert Image.open(project.view_path(image)).convert("RGB").getpixel((60, 32)) == shown
        seen[colour] = [round(float(value)) for value in pixels[:, 32, 60]], shown
    assert seen["#ffffff"][0] == [1, 1, 1] and seen["#0000ff"][0] == [-1, -1, 1]
    assert min(seen["#ffffff"][1]) > 250 and seen["#0000ff"][1][0] < 5 < 250 < seen["#0000ff"][1][2]


@pytest.mark.parametrize("colour", ["blue", "#12345", "#1234567", "#gggggg", ""])
def test_a_background_that_is_no_colour_is_refused(project, colour):
    with pytest.raises(ValueError, match="background"):
        project.set_background(colour)
    assert project.plan.background == "#ffffff"
