import os
import threading

import pytest
from PIL import Image

from lora_studio.core import images
from lora_studio.tagger.pipeline import decoded, prepared_batches

PATIENCE = 60


@pytest.fixture
def entries(picture_folder):
    return [{"id": number, "file": str(file)} for number, file in enumerate(sorted(picture_folder(10).iterdir()))]


def test_pictures_come_in_order_in_batches_of_the_wanted_size(entries):
    batches = list(prepared_batches(entries, 4, lambda image: image.size))
    assert [[item.id for item in batch] for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert {item.ready for batch in batches for item in batch} == {(96, 96)}


def test_the_next_batch_is_made_ready_while_this_one_is_worked_on(entries):
    begun = threading.Semaphore(0)

    def prepare(image):
        begun.release()
        return image

    batches = prepared_batches(entries, 3, prepare, threads=2)
    next(batches)
    for _ in range(6):  # the three in hand, and the three after them although nobody has asked for those yet
        assert begun.acquire(timeout=PATIENCE)
    batches.close()


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 2), (3, 2), (4, 1)])
def test_never_more_than_two_batches_are_held(entries, batch_size, threads):
    lock, begun, taken, most = threading.Lock(), 0, 0, 0

    def prepare(image):
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - taken)
        return image

    for batch in prepared_batches(entries * 5, batch_size, prepare, threads=threads):
        with lock:
            taken += len(batch)
    assert begun == 50 and most <= batch_size + max(batch_size, threads)


def test_pictures_are_prepared_side_by_side(entries):
    meeting = threading.Barrier(2, timeout=PATIENCE)  # one thread alone would wait in vain
    batches = prepared_batches(entries[:2], 2, lambda image: meeting.wait(), threads=2)
    assert sorted(item.ready for item in next(batches)) == [0, 1]


def test_a_picture_that_is_gone_or_broken_carries_its_reason_and_the_rest_goes_on(entries):
    os.remove(entries[2]["file"])
    with open(entries[5]["file"], "wb") as file:
        file.write(b"no picture")
    with open(entries[7]["file"], "wb"):
        pass
    found = [item for batch in prepared_batches(entries, 4, lambda image: "ready") for item in batch]
    assert {item.id: item.reason for item in found if item.reason} == {
        2: "cannot be read (No such file or directory)",
        5: images.UNKNOWN,
        7: "the file is empty (0 bytes)",
    }
    assert sum(item.ready == "ready" for item in found) == 7


def test_a_fault_of_the_preparation_is_not_hidden(entries):
    with pytest.raises(ZeroDivisionError):
        list(prepared_batches(entries, 4, lambda image: 1 / 0))


def test_ending_early_ends_the_threads(entries):
    batches = prepared_batches(entries, 2, lambda image: threading.current_thread().name)
    (first, _) = next(batches)
    batches.close()
    assert first.ready.startswith("prepare") and not [t for t in threading.enumerate() if t.name == first.ready]


def test_only_the_part_is_seen_that_is_trained_on(tmp_path):
    picture = Image.new("RGB", (100, 50), "red")
    picture.paste("blue", (60, 0, 100, 50))
    picture.save(tmp_path / "a.png")
    cut = decoded({"id": 1, "file": tmp_path / "a.png", "crop": (0.6, 0, 1, 0.5)})
    assert cut.size == (40, 25) and cut.getcolors() == [(1000, (0, 0, 255))]


def test_transparency_shows_the_background_of_the_project(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert decoded({"id": 1, "file": tmp_path / "a.png"}, "#102030").getpixel((0, 0)) == (16, 32, 48)


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_studio.tagger.pipeline.LARGE", 1000)
    inside, most, lock, whole = 0, 0, threading.Lock(), images.decode
    entered = threading.Event()

    def counted(*what):
        nonlocal inside, most
        with lock:
            inside, most = inside + 1, max(most, inside + 1)
        entered.wait(0.1)  # time for a second one to come in, were it let
        picture = whole(*what)
        with lock:
            inside -= 1
        return picture

    monkeypatch.setattr(images, "decode", counted)
    for number in range(2):
        Image.new("RGB", (100, 100)).save(tmp_path / f"{number}.png")
    entries = [{"id": number, "file": tmp_path / f"{number}.png"} for number in range(2)]
    assert len(list(prepared_batches(entries, 2, lambda image: image, threads=2))) == 1 and most == 1


def test_a_jpeg_comes_smaller_where_that_is_enough_and_never_too_small(tmp_path):
    file = tmp_path / "large.jpg"
    Image.effect_mandelbrot((1200, 900), (-2, -1.5, 1, 1.5), 60).convert("RGB").save(file, quality=90)
    entry = {"id": 1, "file": str(file)}
    sizes = {draft: decoded(entry, draft=draft).size for draft in (0, 100, 200, 400, 800, 2000)}
    assert sizes[0] == sizes[800] == sizes[2000] == (1200, 900)
    assert (sizes[100], sizes[200], sizes[400]) == ((150, 113), (300, 225), (600, 450))
    cropped = {**entry, "crop": [0.5, 0, 1, 1]}
    assert decoded(cropped, draft=100).size == (600, 900), "of a part every pixel may count"
