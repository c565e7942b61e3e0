from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lora_studio.judge import flags
from lora_studio.judge.facts import ImageFacts
from lora_studio.judge.measures import measure

PLAIN = measure(np.asarray(Image.effect_noise((96, 96), 60).convert("RGB")))


def picture(number=1, **more):
    size = {"width": 768, "height": 768, **{side: more.pop(side) for side in ("width", "height") if side in more}}
    known = {name: more.pop(name) for name in list(more) if hasattr(PLAIN, name) and name not in ("sharpness",)}
    facts = ImageFacts(number, **size, sharpness=0.1, phash=0, signature=PLAIN.signature, sha256=str(number))
    return replace(facts, measures=replace(PLAIN, **{"blockiness": 0.0, **known}), **more)


def said(images, kind="style", resolution=0):
    found = flags.per_image(images, kind, resolution)
    return {image: [flag.name for flag in many] for image, many in found.items()}


def test_a_picture_without_fault_has_no_flag():
    face = ((0.3, 0.1, 0.7, 0.5),)
    assert said([picture(lettering=0.0, faces=face, aesthetic=6.0)], "character", 512) == {}


def test_what_was_not_looked_at_is_not_judged():
    assert said([replace(picture(), measures=None)], "character", 512) == {}


CASES = [
    ({"width": 300, "height": 300}, "too_small", 300, 409.6),
    ({"crops": (None, (0.0, 0.0, 0.3, 0.3))}, "too_small", 230.4, 409.6),
    ({"width": 4000, "height": 800}, "aspect", 5, 3),
    ({"crops": ((0.0, 0.4, 1.0, 0.6),), "width": 2000, "height": 2000}, "aspect", 5, 3),
    ({"lightest": 0.2}, "dark", 0.2, 0.4),
    ({"darkest": 0.8, "lightest": 1.0 + 0.1}, "bright", 0.8, 0.6),
    ({"darkest": 0.4, "lightest": 0.5}, "flat", 0.1, 0.25),
    ({"blockiness": 4.0}, "blocky", 4, 2.5),
    ({"borders": (0.0, 0.1, 0.0, 0.08)}, "borders", 0.1, 0.01),
    ({"lettering": 0.05}, "lettering", 0.05, 0.002),
    ({"aesthetic": 3.2}, "low_aesthetic", 3.2, 4.5),
    ({"faces": ((0.1, 0.1, 0.3, 0.3), (0.6, 0.1, 0.8, 0.3))}, "many_faces", 2, 1),
    ({"faces": ((0.1, 0.1, 0.15, 0.15),)}, "small_face", 0.05, 0.1),
    ({"faces": ((0.1, 0.1, 0.22, 0.22),)}, "small_face", 0.12 * 512, 64),
]


@pytest.mark.parametrize(("facts", "name", "value", "threshold"), CASES, ids=lambda case: str(case)[:40])
def test_each_fault_is_named_with_its_value_and_threshold(facts, name, value, threshold):
    found = flags.per_image([picture(**facts)], "character", 512)
    (flag,) = [one for one in found[1] if one.name != "flat" or name == "flat"]
    assert flag.name == name and flag.value == pytest.approx(value) and flag.threshold == pytest.approx(threshold)
    assert any(sign.isdigit() for sign in flag.text)


def test_the_text_says_how_much_and_how_much_is_too_much():
    found = flags.per_image([picture(borders=(0.0, 0.1, 0.0, 0.08), lettering=0.004)], "style", 512)[1]
    assert found[0].text == "has bars of one colour (top 10 %, bottom 8 %; 1.0 % shows): crop them off"
    assert "0.4 % of it (from 0.2 % on)" in found[1].text


def test_a_dark_style_is_no_fault_of_its_pictures():
    dark = [picture(number, lightest=0.2, darkest=0.0) for number in range(8)]
    assert said(dark) == {}
    assert set(said([*dark[:3], *(picture(number) for number in range(10, 16))])) == {0, 1, 2}


def test_faces_are_asked_for_only_where_the_others_have_one():
    face = ((0.3, 0.1, 0.7, 0.5),)
    most = [picture(number, faces=face) for number in range(6)]
    assert said([*most, picture(9, faces=())], "character") == {9: ["no_face"]}
    assert said([*most, picture(9, faces=())], "style") == {}
    drawn = [picture(number, faces=()) for number in range(6)]  # the detector knows no drawn faces
    assert said([*drawn, picture(9, faces=face)], "character") == {}


def test_only_what_spoils_a_picture_is_proposed_for_rejection():
    assert {"blurred", "too_small", "aspect", "dark", "bright", "blocky"} == flags.BAD
