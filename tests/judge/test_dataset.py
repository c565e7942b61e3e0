import hashlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from lora_studio.core import images, paths
from lora_studio.core.project import Plan
from lora_studio.judge import duplicates
from lora_studio.judge.dataset import TARGETS, ImageFacts, measure
from lora_studio.judge.dataset import audit as audit_of
from lora_studio.judge.measures import area_resize, sharpness

SAMPLES = paths.assets() / "starter" / "samples"
PLANTED = {"(copy)": "duplicate", "_small": "near_duplicate", "_blurry": "blurred", "_thumb": "too_small"}


def audit(images, kind, resolution=0):
    return audit_of(images, Plan(name="test", kind=kind), resolution)


def facts(pictures, first=1):
    found = []
    for number, picture in enumerate(pictures, first):
        measures = measure(np.asarray(picture))
        digest = hashlib.sha256(picture.tobytes()).hexdigest()
        found.append(ImageFacts(number, *picture.size, measures.sharpness, measures.phash, measures.signature, digest))
    return found


def cartoon(seed, size=(320, 320), background=None, mouth=None):
    """A face of flat colours, the same pose in every picture, like the sample projects' art."""
    generator = np.random.default_rng(seed)
    colours = [tuple(int(value) for value in generator.integers(0, 256, 3)) for _ in range(4)]
    width, height = size
    picture = Image.new("RGB", size, background or colours[0])
    draw = ImageDraw.Draw(picture)
    draw.rectangle((width * 0.2, height * 0.75, width * 0.8, height), fill=colours[1])
    draw.ellipse((width * 0.25, height * 0.15, width * 0.75, height * 0.8), fill=colours[2])
    draw.pieslice((width * 0.22, height * 0.1, width * 0.78, height * 0.7), 180, 360, fill=colours[3])
    for eye in (0.4, 0.6):
        draw.ellipse((width * (eye - 0.03), height * 0.45, width * (eye + 0.03), height * 0.51), fill="black")
    draw.arc((width * 0.4, height * 0.5, width * 0.6, height * 0.65), *(mouth or (20, 160)), fill="black", width=4)
    return picture


def names(found, image):
    return [flag.name for flag in found.flags.get(image, [])]


@pytest.mark.parametrize("kind", TARGETS)
def test_of_a_sample_project_exactly_the_planted_bad_pictures_are_flagged(kind):
    files, pictures = [], []
    for path in sorted((SAMPLES / kind / "images").iterdir()):
        try:
            pictures.append(images.decode(path))
            files.append(path)
        except images.ImageError:
            continue  # the damaged ones never come this far
    found = audit(facts(pictures), kind)
    flagged = {path.stem: names(found, number) for number, path in enumerate(files, 1) if names(found, number)}
    for mark, flag in PLANTED.items():
        stem = next(path.stem for path in files if mark in path.stem)
        twin = stem.replace(" (copy)", "")
        assert flag in flagged.get(stem, []) + flagged.get(twin, []), stem
    good = [stem for stem in flagged if not any(mark in stem for mark in PLANTED) and not stem.endswith("_01")]
    assert good == [], flagged
    assert len(flagged) == 4


def test_one_pose_in_other_colours_is_no_duplicate():
    found = audit(facts([cartoon(seed) for seed in range(30)]), "character")
    assert found.flags == {}


def test_copies_saved_again_smaller_or_as_jpeg_are_found_and_the_best_is_kept(tmp_path):
    cartoon(1).save(tmp_path / "low.jpg", quality=70)
    pictures = [cartoon(1).resize((200, 200)), images.decode(tmp_path / "low.jpg"), cartoon(1), cartoon(2)]
    group, *others = duplicates.groups(facts(pictures))
    assert others == [] and {group.best, *(member.id for member in group.members)} == {1, 2, 3}
    assert group.best != 1 and {member.id: member.relation for member in group.members}[1] == "smaller"
    flags = audit(facts(pictures), "character").flags
    assert set(flags) == {1, 2, 3} - {group.best} and all(flag.other == group.best for (flag,) in flags.values())


def test_the_very_same_file_is_called_so():
    found = audit(facts([cartoon(1), cartoon(2), cartoon(1)]), "character")
    assert names(found, 3) == ["duplicate"] and found.flags[3][0].other == 1


def test_a_blurred_picture_stands_out_from_its_set():
    pictures = [cartoon(seed) for seed in range(12)]
    pictures[5] = pictures[5].filter(ImageFilter.GaussianBlur(4))
    found = audit(facts(pictures), "character")
    assert list(found.flags) == [6] and names(found, 6) == ["blurred"]
    alone = audit(facts([cartoon(0), cartoon(1).filter(ImageFilter.GaussianBlur(8))]), "character")
    assert list(alone.flags) == [2]


def test_a_set_that_is_soft_throughout_has_no_blurred_pictures():
    soft = [cartoon(seed).filter(ImageFilter.GaussianBlur(3)) for seed in range(12)]
    found = audit(facts(soft), "style")
    assert found.flags == {} and any("whole set is soft" in finding.text for finding in found.findings)


def test_sharpness_falls_with_blur_and_keeps_with_contrast():
    gray = np.asarray(cartoon(3).convert("L"), dtype=float)
    blurred = np.asarray(cartoon(3).filter(ImageFilter.GaussianBlur(2)).convert("L"), dtype=float)
    assert sharpness(blurred) < sharpness(gray) / 5
    assert sharpness(gray * 0.3 + 40) == pytest.approx(sharpness(gray))
    assert sharpness(np.full((50, 50), 7.0)) == 0
    board = np.indices((64, 64)).sum(axis=0) % 2.0
    assert 10 < sharpness(board) <= 64


def test_area_resize_keeps_the_mean_and_flat_parts():
    gray = np.random.default_rng(0).random((37, 53))
    assert area_resize(gray, 8, 8).mean() == pytest.approx(gray.mean())
    assert np.allclose(area_resize(np.full((5, 9), 3.0), 8, 8), 3)


def test_a_large_photo_is_measured_like_its_small_copy():
    large = cartoon(4, (3000, 2000))
    one, other = measure(np.asarray(large)), measure(np.asarray(large.resize((1500, 1000), Image.Resampling.BOX)))
    assert (one.phash ^ other.phash).bit_count() <= 2
    difference = np.abs(
        np.subtract(np.frombuffer(one.signature, np.uint8), np.frombuffer(other.signature, np.uint8), dtype=int)
    )
    assert difference.max() <= 2 and len(one.signature) == 192


@pytest.mark.parametrize(
    ("size", "resolution", "flagged"),
    [((40, 40), 64, True), ((60, 60), 64, False), ((300, 300), 512, True), ((512, 400), 512, False)],
)
def test_a_picture_is_too_small_for_the_size_it_is_trained_at(size, resolution, flagged):
    found = audit(facts([cartoon(1, size)]), "character", resolution)
    assert (names(found, 1) == ["too_small"]) is flagged


def test_a_long_picture_is_to_be_cropped():
    found = audit(facts([cartoon(1, (800, 200)), cartoon(2, (200, 500))]), "character")
    assert names(found, 1) == ["aspect"] and "4.0 to 1" in found.flags[1][0].text and names(found, 2) == []


@pytest.mark.parametrize(("count", "level"), [(0, "bad"), (2, "bad"), (9, "warn"), (20, "good"), (60, "info")])
def test_the_number_is_held_against_the_guides(count, level):
    finding = audit(facts([cartoon(seed) for seed in range(count)]), "character").findings[0]
    assert finding.level == level and finding.evidence == {"good": count, "total": count, "target": [15, 50]}


def test_backgrounds_all_alike_are_said_for_a_character_but_not_for_a_style():
    alike = facts([cartoon(seed, background=(250, 250, 245)) for seed in range(20)])
    mixed = facts([cartoon(seed) for seed in range(20)])
    said = [finding for finding in audit(alike, "character").findings if "background" in finding.text]
    assert len(said) == 1 and said[0].evidence["share"] == 1.0
    assert not any("background" in finding.text for finding in audit(mixed, "character").findings)
    assert not any("background" in finding.text for finding in audit(alike, "style").findings)


def test_ten_thousand_pictures_are_judged_in_seconds():
    import time

    generator = np.random.default_rng(0)
    many = [
        ImageFacts(n, 512, 512, 0.1, int(generator.integers(2**63)), generator.bytes(192), str(n))
        for n in range(10_000)
    ]
    begin = time.process_time()
    assert audit(many, "style").flags == {}
    assert time.process_time() - begin < 10
