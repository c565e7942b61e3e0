"""Faces, lettering and outlines. astronaut.jpg: portrait of Eileen Collins by NASA, in the public domain."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lora_studio.core import images, paths
from lora_studio.vision import faces, subject, text

PHOTO = np.asarray(Image.open(Path(__file__).with_name("astronaut.jpg")).convert("RGB"))
ART = paths.assets() / "starter" / "samples"
FACE = (0.33, 0.17, 0.61, 0.48)


def overlap(one, other):
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


def art(kind, name):
    return np.asarray(images.decode(ART / kind / "images" / f"{name}.png"))


def test_a_photographed_face_is_found_where_it_is():
    (found,) = faces.find(PHOTO)
    assert overlap(found, FACE) > 0.5


def test_several_faces_are_found_and_the_largest_comes_first():
    page = np.full((256, 400, 3), 90, np.uint8)
    page[:, :256] = PHOTO
    page[64:192, 264:392] = PHOTO[::2, ::2]
    first, second = faces.find(page)
    assert first[2] < 0.5 < second[0] and first[3] - first[1] > second[3] - second[1]


def test_nothing_is_taken_for_a_face_where_there_is_none():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    assert faces.find(noise) == () and faces.find(PHOTO[::-1]) == ()
    assert faces.find(np.zeros((16, 900, 3), np.uint8)) == ()
    for seed in (14, 15):  # blotches that the cascade alone takes for faces
        blotches = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24), np.uint8))
        assert faces.find(np.asarray(blotches.resize((300, 300), Image.BICUBIC).convert("RGB"))) == ()


def lettered(picture, words="www.example.org", size=20, fill=(255, 255, 255), angle=0):
    image = Image.fromarray(picture)
    layer = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(layer)
    pen.text((16, image.height * 0.8), words, font=ImageFont.load_default(size), fill=255)
    layer = layer.rotate(angle)
    image.paste(fill, (0, 0), layer)
    return np.asarray(image)


def plain(colour=(60, 90, 140)):
    return np.full((320, 320, 3), colour, np.uint8)


@pytest.mark.parametrize("words", ["www.example.org", "Пример подписи", "Sample picture"])
def test_lettering_is_found_where_it_stands(words):
    found = text.find(lettered(plain(), words))
    assert found.boxes and 0.005 < found.share < 0.12
    for left, top, right, bottom in found.boxes:
        assert 0 <= left < right <= 1 and top > 0.75 and bottom < 0.92


@pytest.mark.parametrize("fill", [(255, 255, 255), (10, 10, 10)])
def test_light_and_dark_lettering_on_a_drawing_is_found(fill):
    ground = art("style", "papercut_01")
    assert text.find(ground).share == 0 and text.find(lettered(ground, fill=fill)).share > 0.002


def test_lettering_aslant_is_found():
    assert text.find(lettered(plain(), "www.example.org", 24, angle=30)).share > 0.01


def test_a_picture_without_lettering_has_none():
    assert text.find(PHOTO).share == 0 and text.find(plain()).boxes == ()
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    assert text.find(noise).share == 0


def disc(ground=(200, 210, 220), figure=(180, 40, 40), side=200):
    rows, columns = np.mgrid[:side, :side]
    inside = (rows - 0.55 * side) ** 2 + (columns - 0.4 * side) ** 2 < (0.25 * side) ** 2
    return np.where(inside[..., None], np.uint8(figure), np.uint8(ground)), inside


def agreement(mask, true):
    return (true & (mask > 0)).sum() / (true | (mask > 0)).sum()


def test_the_subject_is_told_from_its_background():
    picture, inside = disc()
    found = subject.mask(picture)
    assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 255} and agreement(found, inside) > 0.95
    assert subject.box(found) == pytest.approx((0.15, 0.3, 0.65, 0.8), abs=0.02)
    assert (subject.mask(picture) == found).all()


def test_transparency_decides_alone():
    picture, inside = disc(figure=(200, 210, 220))  # cannot be told by colour
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    assert agreement(subject.mask(picture, alpha=alpha), inside) == 1


def test_the_outline_is_looked_for_within_the_box():
    left, inside = disc()
    pair = np.concatenate([left, left], axis=1)
    found = subject.mask(pair, box=(0.52, 0.2, 0.98, 0.98))
    assert not found[:, :200].any() and agreement(found[:, 200:], inside) > 0.9


def test_where_nothing_stands_out_all_of_it_is_the_subject():
    assert (subject.mask(plain()) == 255).all()
    boxed = subject.mask(plain(), box=(0.25, 0.25, 0.75, 0.75))
    assert subject.box(boxed) == (0.25, 0.25, 0.75, 0.75) and subject.box(np.zeros((9, 9), np.uint8)) == (0, 0, 1, 1)


def test_a_face_is_part_of_the_subject():
    found = subject.mask(PHOTO, faces=faces.find(PHOTO))
    height, width = found.shape
    left, top, right, bottom = (round(edge * side) for edge, side in zip(FACE, (width, height) * 2, strict=True))
    assert found[top + 10 : bottom - 10, left + 15 : right - 15].mean() > 240
