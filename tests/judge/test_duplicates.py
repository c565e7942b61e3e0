import hashlib
import io
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lora_studio.core import images, paths
from lora_studio.judge import duplicates
from lora_studio.judge.facts import ImageFacts
from lora_studio.judge.measures import measure
from lora_studio.vision import same

SAMPLES = paths.assets() / "starter" / "samples"


@pytest.fixture(scope="module")
def pictures():
    """Different pictures, several of one character in one pose among them."""
    return [images.decode(SAMPLES / kind / "images" / f"{name}_{number:02}.png")
            for kind, name in (("character", "zorbi"), ("style", "papercut"), ("concept", "eyepatch"))
            for number in range(1, 9)]  # fmt: skip


def facts(pictures):
    found = []
    for number, picture in enumerate(pictures, 1):
        known = measure(np.asarray(picture))
        digest = hashlib.sha256(picture.tobytes() + str(picture.size).encode()).hexdigest()
        found.append(ImageFacts(number, *picture.size, known.sharpness, known.phash, known.signature, digest))
    return found


def thumb(picture):
    return np.asarray(Image.open(io.BytesIO(images.thumbnail(picture))).convert("RGB"))


def judged(known, pictures, also=0):
    """What the job does: look at all candidates, here from place `also` on."""
    return {
        (known[one].sha256, known[other].sha256): same.relation(thumb(pictures[one]), thumb(pictures[other])) or ""
        for one, other in duplicates.candidates(known)
        if other >= also
    }


def jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def mirrored(picture):
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def crop(picture, left, top, right, bottom):
    return picture.crop(
        [round(edge * side) for edge, side in zip((left, top, right, bottom), picture.size * 2, strict=True)]
    )


WAYS = {
    "smaller": (lambda picture: picture.resize((150, 150)), "smaller"),
    "saved as a poor JPEG": (lambda picture: jpeg(picture, 30), "same picture"),
    "mirrored": (mirrored, "mirrored"),
    "cropped": (lambda picture: crop(picture, 0.2, 0.05, 0.95, 0.8), "cropped"),
    "cropped and mirrored": (lambda picture: mirrored(crop(picture, 0.1, 0.1, 0.9, 0.9)), "cropped"),
    "cropped and enlarged": (lambda picture: crop(picture, 0, 0, 0.8, 0.75).resize((600, 563)), "cropped"),
    "brighter": (lambda picture: ImageEnhance.Brightness(picture).enhance(1.1), "same picture"),
    "more colourful": (lambda picture: ImageEnhance.Color(picture).enhance(1.2), "same picture"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_found_and_the_better_one_proposed(pictures, way):
    change, relation = WAYS[way]
    number = random.Random(way).randrange(len(pictures))
    together = [*pictures, change(pictures[number])]
    known = facts(together)
    (group,) = duplicates.groups(known, judged(known, together, len(pictures)))
    assert {group.best, group.members[0].id} == {number + 1, len(together)} and len(group.members) == 1
    if relation != "same picture":
        assert group.best == number + 1
    assert group.members[0].relation == relation or way == "mirrored"


def test_one_character_in_one_pose_with_another_face_shirt_or_background_is_no_copy(pictures):
    known = facts(pictures)
    pairs = judged(known, pictures)
    assert len(pairs) > 20, "nothing was put to the test"
    assert set(pairs.values()) == {""} and duplicates.groups(known, pairs) == []


@pytest.mark.parametrize("colour", ["another shirt", "another mouth"])
def test_a_small_change_in_an_otherwise_equal_picture_is_seen(pictures, colour):
    changed = pictures[0].copy()
    width, height = changed.size
    box = {"another shirt": (0.3, 0.85, 0.7, 1.0), "another mouth": (0.45, 0.62, 0.55, 0.65)}[colour]
    changed.paste((40, 60, 200), [round(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True)])
    assert same.relation(thumb(pictures[0]), thumb(changed)) is None


def test_what_was_looked_at_closely_outweighs_hash_and_colours(pictures):
    small = pictures[0].resize((200, 200))
    known = facts([pictures[0], small])
    assert len(duplicates.groups(known)) == 1
    assert duplicates.groups(known, {(known[1].sha256, known[0].sha256): ""}) == []


def test_the_part_and_the_whole_are_told_apart_whichever_is_asked_first(pictures):
    whole, part = thumb(pictures[1]), thumb(crop(pictures[1], 0.1, 0, 0.9, 0.85))
    assert same.relation(whole, part) == "cropped" and same.relation(part, whole) == "whole"
    known = [replace(one, id=number) for number, one in zip((7, 3), facts([pictures[1], pictures[2]]), strict=True)]
    for pairs in ({(known[0].sha256, known[1].sha256): "cropped"}, {(known[1].sha256, known[0].sha256): "whole"}):
        (group,) = duplicates.groups(known, pairs)
        assert group.best == 7 and group.members[0].relation == "cropped" and "part of" in group.members[0].text


def made_up(count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        ImageFacts(n + 1, 512, 512, 0.1, int(generator.integers(2**63)), generator.bytes(192), f"{n:064x}")
        for n in range(count)
    ]


def test_hashes_up_to_six_bits_apart_are_all_found():
    generator, found = np.random.default_rng(1), made_up(800)
    for n in range(0, 800, 10):
        bits = sum(1 << int(bit) for bit in generator.choice(63, 1 + n // 10 % 6, replace=False))
        found[n + 1] = replace(found[n + 1], phash=found[n].phash ^ bits, signature=found[n].signature)
    assert [(group.best, [one.id for one in group.members]) for group in duplicates.groups(found)] == [
        (n + 1, [n + 2]) for n in range(0, 800, 10)
    ]
    assert {(n, n + 1) for n in range(0, 800, 10)} <= set(duplicates.candidates(found))


def test_the_order_of_the_pictures_has_no_influence(pictures):
    known = facts([*pictures, pictures[3].resize((180, 180)), mirrored(pictures[9])])
    shuffled = random.Random(2).sample(known, len(known))

    def named(some):
        return {frozenset((some[one].id, some[other].id)) for one, other in duplicates.candidates(some)}

    assert named(known) == named(shuffled) and duplicates.groups(known) == duplicates.groups(shuffled)


def test_each_picture_is_put_forward_only_a_few_times():
    alike = made_up(1)[0]
    same_pose = [replace(alike, id=n, sha256=f"{n:064x}") for n in range(400)]
    assert len(duplicates.candidates(same_pose)) <= 17 * 400


def test_a_kept_picture_stays_the_best_of_its_group():
    one, other = made_up(2)
    small = replace(other, width=100, height=100, phash=one.phash, signature=one.signature, decision="keep")
    (group,) = duplicates.groups([one, small])
    assert group.best == small.id and group.why == "you kept it"
    (group,) = duplicates.groups([one, replace(small, decision="new")])
    assert group.best == one.id and group.why == "the largest"
    assert group.members[0].text == "a smaller copy of another picture (100 x 100; the other has 512 x 512)"


def test_of_mirrored_copies_the_way_most_are_turned_is_kept():
    known = [replace(one, sharpness=sharpness) for one, sharpness in zip(made_up(3), (0.3, 0.2, 0.1), strict=True)]
    sha = [one.sha256 for one in known]
    pairs = {(sha[0], sha[1]): "mirrored", (sha[0], sha[2]): "mirrored", (sha[1], sha[2]): "same"}
    (group,) = duplicates.groups(known, pairs)
    assert group.best == 2 and {one.id: one.relation for one in group.members} == {1: "mirrored", 3: "same picture"}


def test_a_part_of_two_pictures_does_not_make_them_one():
    shirt, other_shirt, face = made_up(3)
    pairs = {(shirt.sha256, face.sha256): "cropped", (face.sha256, other_shirt.sha256): "whole"}
    (group,) = duplicates.groups([shirt, other_shirt, face], pairs)
    assert group.best == shirt.id and [one.id for one in group.members] == [face.id]
