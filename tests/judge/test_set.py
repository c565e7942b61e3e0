"""The judgement of the set as a whole: map, coverage, gauges, grade."""

import random
from dataclasses import replace

import numpy as np
import pytest

from lora_studio.core.project import Plan
from lora_studio.judge import coverage, layout, symmetry
from lora_studio.judge.aspects import SUBJECTS
from lora_studio.judge.dataset import audit
from lora_studio.judge.facts import ImageFacts

SHIRTS = ("red shirt", "blue shirt", "green shirt", "white dress", "black jacket", "yellow shirt")
FACES = ("smile", "sad", "angry", "open mouth", "closed eyes")
PLACES = ("forest", "beach", "white background", "city", "blue background", "indoors")
SHOTS = ("close-up", "upper body", "full body")
VIEWS = ("from side", "from behind", "looking at viewer")


def vector(centre, generator, spread):
    """An embedding near a centre."""
    found = centre + spread * generator.normal(size=len(centre)) / np.sqrt(len(centre))
    return (found / np.linalg.norm(found)).astype(np.float32)


def pictures(count=24, seed=0, spread=0.6, tags=None, centre=0, first=1):
    """A well varied set of one character; `centre` numbers the character, `tags(n)` replaces the captions."""
    generator = np.random.default_rng(seed)
    middle = np.random.default_rng(1000 + centre).normal(size=64)
    middle /= np.linalg.norm(middle)
    found = []
    for n in range(count):
        said = tags(n) if tags else varied(n)
        found.append(ImageFacts(
            first + n, 768, 768, 0.1, int(generator.integers(2**63)), generator.bytes(192), f"{seed}-{first + n}",
            tags=("zorbi", *said), embedding=vector(middle, generator, spread),
        ))  # fmt: skip
    return found


def varied(n):
    return (
        "green hair",
        SHIRTS[n % 6],
        FACES[n % 5],
        PLACES[n * 5 % 6],
        SHOTS[n % 3],
        VIEWS[n // 2 % 3],
        "day" if n % 2 else "night",
    )


def plan(**changes):
    return Plan(**{"name": "test", "kind": "character", "trigger": "zorbi", "base": "sd15", **changes})


def aspect(found, name):
    return next(one for one in found if one.name == name)


# --- coverage


def test_a_missing_view_and_one_jacket_on_nearly_all_are_said_in_words():
    def tags(n):
        return ("black jacket" if n < 14 else SHIRTS[n % 3], "from behind" if n % 2 else "looking at viewer")

    found = coverage.coverage(pictures(18, tags=tags), plan())
    assert aspect(found, "angle").text == "No side view." and aspect(found, "angle").missing == ("side view",)
    outfit = aspect(found, "outfit")
    assert outfit.text == "14 of 18 in a black jacket: the jacket will be learned as part of the character."
    assert outfit.level == "warn" and outfit.values[0].ids == tuple(range(1, 15))


def test_what_the_plan_calls_defining_may_be_on_all_pictures():
    images = pictures(18, tags=lambda n: ("black jacket",))
    assert aspect(coverage.coverage(images, plan()), "outfit").level == "warn"
    free = aspect(coverage.coverage(images, plan(defining=("black jacket",))), "outfit")
    assert free.level != "warn" and "learned" not in free.text


@pytest.mark.parametrize(("varies", "level"), [((), "info"), (("expression",), "warn"), (("mood",), "warn")])
def test_what_the_plan_wants_to_vary_weighs_more(varies, level):
    images = pictures(12, tags=lambda n: ("smile",))
    assert aspect(coverage.coverage(images, plan(varies=varies)), "expression").level == level


def test_without_captions_the_taggers_guesses_are_counted_and_the_caption_goes_before_them():
    guessed = [replace(one, tags=(), scores={"smile": 0.9, "sad": 0.1}) for one in pictures(8)]
    assert [value.name for value in aspect(coverage.coverage(guessed, plan()), "expression").values] == ["smiling"]
    said = [replace(one, tags=("sad",), scores={"smile": 0.9}) for one in pictures(8)]
    assert [value.name for value in aspect(coverage.coverage(said, plan()), "expression").values] == ["sad"]


def test_what_nobody_knows_is_not_judged():
    bare = [replace(one, tags=()) for one in pictures(20)]
    found = coverage.coverage(bare, plan())
    assert {one.name for one in found if not one.judged} == {
        "framing",
        "angle",
        "expression",
        "lighting",
        "background",
        "outfit",
    }
    assert audit(bare, plan()).gauges["diversity"].value > 0.7


def test_the_framing_is_seen_by_the_size_of_the_face():
    boxes = {"close-up": (0.3, 0.2, 0.7, 0.7), "upper body": (0.4, 0.1, 0.6, 0.3), "full body": (0.45, 0.1, 0.5, 0.15)}
    images = [replace(one, tags=(), faces=(box,)) for one, box in zip(pictures(3), boxes.values(), strict=True)]
    assert {value.name for value in aspect(coverage.coverage(images, plan()), "framing").values} == set(boxes)


def test_a_style_shown_on_people_only_is_said():
    images = pictures(20, tags=lambda n: ("1girl", "outdoors" if n % 2 else "close-up"))
    subjects = aspect(coverage.coverage(images, plan(kind="style")), "subjects")
    assert subjects.text == (
        "20 of 20 show a person: the style will be learned as a way to draw only that. "
        "No animal, no place and no thing."
    )  # fmt: skip


def test_pictures_that_contradict_the_plan_are_named():
    images = pictures(12, tags=lambda n: ("brown hair" if n < 2 else "green hair", "glasses" if n == 5 else "smile"))
    hair, glasses = coverage.against_plan(
        images, plan(defining=("green hair", "freckles"), avoid=("glasses", "other people"))
    )
    assert hair.text == "2 pictures show brown hair, but the plan says green hair is what makes the subject."
    assert hair.images == (1, 2) and glasses.images == (6,) and "must not be learned" in glasses.text


def test_shapes_of_hair_that_a_tagger_confuses_contradict_nothing():
    images = [replace(one, tags=("zorbi",), scores={"long hair": 0.9, "bob cut": 0.6}) for one in pictures(12)]
    assert coverage.against_plan(images, plan(defining=("twintails", "short hair"))) == []


@pytest.mark.parametrize("kind", SUBJECTS)
def test_every_aspect_has_words_a_remedy_and_what_becomes_of_it(kind):
    for subject in SUBJECTS[kind]:
        assert subject.add and subject.learned and subject.words and set(subject.expected) <= set(subject.values), (
            subject.name
        )


# --- map


def test_strangers_stand_apart_and_nobody_else_does():
    images = [*pictures(24), *pictures(2, seed=5, centre=9, first=90)]
    found = layout.layout([one.id for one in images], np.stack([one.embedding for one in images]))
    assert {point[0] for point in found.points if point[4]} == {90, 91}
    assert {image: [flag.name for flag in flags] for image, flags in audit(images, plan()).flags.items()} == {
        90: ["outlier"], 91: ["outlier"]
    }  # fmt: skip


def test_two_characters_are_two_clusters_and_one_is_one():
    both = [*pictures(20), *pictures(12, seed=3, centre=4, first=50)]
    found = layout.layout([one.id for one in both], np.stack([one.embedding for one in both]))
    assert found.clusters == [(0, "20 pictures"), (1, "12 pictures")]
    assert {point[0] for point in found.points if point[3] == 1} == set(range(50, 62))
    one = pictures(32)
    assert layout.layout([p.id for p in one], np.stack([p.embedding for p in one])).clusters == [(0, "32 pictures")]


def test_neighbours_on_the_map_are_neighbours_in_the_embedding():
    groups = [pictures(60, seed=seed, centre=seed, first=100 * seed) for seed in range(1, 5)]
    images = [one for group in groups for one in group]
    found = layout.layout([one.id for one in images], np.stack([one.embedding for one in images])).points
    places, of = np.array([point[1:3] for point in found]), np.array([point[0] // 100 for point in found])
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :5]
    assert (of[nearest] == of[:, None]).mean() > 0.95 and places.min() >= 0 and places.max() <= 1


def test_the_map_is_the_same_every_time_and_in_every_order():
    images = [*pictures(300), *pictures(200, seed=3, centre=4, first=500)]
    shuffled = random.Random(0).sample(images, len(images))
    one, other = (
        layout.layout([p.id for p in some], np.stack([p.embedding for p in some])) for some in (images, shuffled)
    )
    assert one == other


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_small_sets_have_a_map_too(count):
    images = pictures(count) if count else []
    stack = np.stack([one.embedding for one in images]) if images else np.zeros((0, 64), np.float32)
    assert len(layout.layout([one.id for one in images], stack).points) == count


def test_equal_pictures_have_a_map_too():
    found = layout.layout(range(20), np.tile(pictures(1)[0].embedding, (20, 1)))
    assert not any(np.isnan(point[1]) or point[4] for point in found.points) and len(found.clusters) == 1


# --- gauges and grade


def test_a_clean_varied_set_of_one_character_gets_an_a():
    found = audit(pictures(), plan())
    assert (
        found.grade.letter == "A" and found.gauges["consistency"].value > 0.8 and found.gauges["diversity"].value > 0.8
    )


def test_strangers_lower_the_consistency_and_one_pose_the_diversity():
    whole = audit(pictures(), plan())
    some = audit([*pictures(21), *pictures(3, seed=5, centre=9, first=90)], plan())
    third = audit(
        [*pictures(16), *pictures(8, seed=5, centre=9, first=90, tags=lambda n: ("red hair", *varied(n)[1:]))], plan()
    )
    consistent = [found.gauges["consistency"].value for found in (whole, some, third)]
    assert consistent[0] > consistent[1] > consistent[2] and third.grade.letter in "CD"
    assert third.grade.next[0].text == "8 pictures may not show the same character as the others."
    assert third.grade.next[0].images == third.gauges["consistency"].against == tuple(range(90, 98))
    pose = [replace(one, signature=pictures(1)[0].signature) for one in pictures(spread=0.05, tags=lambda n: varied(0))]
    found = audit(pose, plan())
    assert (
        found.gauges["diversity"].value < 0.3 and found.gauges["consistency"].value > 0.8 and found.grade.letter in "DE"
    )
    assert found.gauges["diversity"].text.startswith("The pictures are much alike")


def test_the_grade_names_what_would_raise_it_most_first():
    copies = [replace(one, id=one.id + 500, width=300, height=300, sha256=f"copy {one.id}") for one in pictures(9)]
    few = [*pictures(12), *copies]
    found = audit(few, plan()).grade
    assert len(found.next) <= 3 and found.next[0].text == "9 pictures are nearly the same as another."
    assert [step.evidence["points"] for step in found.next] == sorted(
        (s.evidence["points"] for s in found.next), reverse=True
    )
    assert any(step.text == "Add 3 more good pictures." for step in found.next)
    assert audit(pictures(12), plan()).grade.points > found.points


def test_taking_the_advice_raises_the_grade():
    images = pictures(24, tags=lambda n: ("white dress", *varied(n)[2:]))
    before = audit(images, plan()).grade
    assert before.next[0].text == "24 of 24 in a white dress: the dress will be learned as part of the character."
    assert audit(pictures(), plan()).grade.points > before.points


def test_no_picture_and_too_few_pictures_get_no_good_grade():
    assert audit([], plan()).grade.letter == "F" and audit([], plan()).gauges == {}
    assert audit(pictures(3), plan()).grade.letter not in "ABC"


def test_the_order_of_the_pictures_has_no_influence_on_the_verdict():
    images = [*pictures(20), *pictures(4, seed=5, centre=9, first=90)]
    shuffled = random.Random(1).sample(images, len(images))
    assert audit(images, plan()).to_dict() == audit(shuffled, plan()).to_dict()


def test_what_was_not_looked_at_is_left_out():
    bare = [replace(one, embedding=None, scores=None, tags=()) for one in pictures()]
    found = audit(bare, plan())
    assert set(found.gauges) == {"diversity"} and found.flags == {} and found.grade.letter == "A"


# --- left and right


def test_mirrored_copies_and_one_sided_subjects_are_said():
    images = pictures(10)
    pairs = {(images[0].sha256, images[1].sha256): "mirrored"}
    texts = [finding.text for finding in audit(images, plan(defining=("scar", "green hair")), 0, pairs).findings]
    assert "1 picture is a mirrored copy of another: they teach nothing new, and left and right get mixed up." in texts
    assert "scar: this looks wrong in a mirror, so mirroring would teach it wrongly." in texts


def test_a_subject_that_differs_left_and_right_in_all_pictures_is_told_from_one_that_does_not():
    generator = np.random.default_rng(0)

    def grid(left, right):
        levels = np.full((8, 8, 3), 128.0) + generator.normal(size=(8, 8, 3)) * 6
        levels[:, :4] += left
        levels[:, 4:] += right
        return levels.clip(0, 255).astype(np.uint8).tobytes()

    same_side = [replace(one, signature=grid(40, -40)) for one in pictures(12)]
    either = [replace(one, signature=grid(*((40, -40) if n % 2 else (-40, 40)))) for n, one in enumerate(pictures(12))]
    assert symmetry.one_sidedness(same_side) > 0.9 and symmetry.one_sidedness(either) < 0.3
    assert any("data.flip" in finding.remedy for finding in symmetry.findings(same_side, plan(), []))
    assert symmetry.findings(either, plan(), []) == []
