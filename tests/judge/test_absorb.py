import random

import pytest

from lora_studio.core.tags import categoriser
from lora_studio.judge.absorb import Answers, absorbed

CATEGORY = categoriser({"hatsune miku": "character"})
ZORBI = Answers("zorbi", defining=("green hair", "twintails"), varies=("expression", "clothes"), avoid=("hat",))


def judged(captions, kind="character", answers=ZORBI):
    return absorbed(dict(enumerate(captions, 1)), kind, answers, CATEGORY)


def actions(found):
    return {one.tag: one.action for one in found.proposals}


def why(found, tag):
    return next(one.why for one in found.proposals if one.tag == tag)


def repeated(*shares: tuple[str, int], count: int = 20, lead: str = "zorbi") -> list[str]:
    """`count` captions; each tag stands on so many of them, spread so that no two stand together by plan."""
    return [
        ", ".join([lead, *(tag for place, (tag, many) in enumerate(shares) if (image * 7 + place * 3) % count < many)])
        for image in range(count)
    ]


def test_what_the_plan_calls_defining_is_pruned_and_what_varies_is_kept():
    found = judged(repeated(("green hair", 20), ("twintails", 3), ("red shirt", 15), ("smile", 12)))
    assert actions(found) == {"green hair": "prune", "twintails": "prune", "red shirt": "keep", "smile": "keep"}
    assert "green hair as defining" in why(found, "green hair") and "clothes may change" in why(found, "red shirt")


def test_traits_are_pruned_when_frequent_and_the_plan_does_not_say():
    found = judged(
        repeated(("red eyes", 15), ("freckles", 12), ("tall", 4), ("standing", 12)), answers=Answers("zorbi")
    )
    assert actions(found) == {"red eyes": "prune", "freckles": "prune", "standing": "keep"}
    assert "eye colour" in why(found, "red eyes") and "75 %" in why(found, "red eyes")


def test_a_trait_that_varies_by_the_plan_is_kept():
    answers = Answers("zorbi", varies=("hair",))
    found = judged(repeated(("long hair", 15), ("red hair", 12), ("red eyes", 15)), answers=answers)
    assert actions(found) == {"red eyes": "prune", "long hair": "keep", "red hair": "keep"}


def test_a_word_that_names_the_tag_itself_weighs_more_than_one_that_names_its_kind():
    both = Answers("zorbi", defining=("twintails", "shirt"), varies=("hair", "clothes"))
    found = judged(repeated(("red shirt", 15), ("twintails", 15), ("long hair", 6)), answers=both)
    assert actions(found) == {"twintails": "prune", "red shirt": "keep"}


def test_the_taggers_other_word_for_a_defining_trait_is_pruned_too():
    found = judged(repeated(("long hair", 6), ("bald", 1)))
    assert actions(found) == {"long hair": "prune"} and "The plan says twintails" in why(found, "long hair")


def test_what_must_not_be_learned_stays_named():
    found = judged(repeated(("red hat", 4)))
    assert actions(found) == {"red hat": "keep"} and "must not be learned" in why(found, "red hat")


def test_another_name_of_the_character_is_pruned():
    assert actions(judged(repeated(("hatsune miku", 18)))) == {"hatsune miku": "prune"}


def test_what_was_pruned_before_and_came_back_is_told():
    found = judged(repeated(("voxel art", 4)), answers=Answers("zorbi", prune_tags=("voxel art",)))
    assert actions(found) == {"voxel art": "prune"} and "The plan prunes it" in why(found, "voxel art")


def test_a_style_loses_its_style_words_and_keeps_what_is_shown():
    captions = repeated(("watercolor", 1), ("red hair", 16), ("tree", 10), ("monochrome", 9))
    found = judged(captions, "style", Answers("zorbi", defining=("soft edges",)))
    assert actions(found) == {"monochrome": "prune", "watercolor": "prune", "red hair": "keep", "tree": "keep"}


def test_a_concept_is_the_reverse():
    captions = repeated(("watercolor", 16), ("sunglasses", 6), ("black eyepatch", 3), ("red hair", 12), lead="eyepatch")
    found = judged(captions, "concept", Answers("eyepatch", varies=("person",)))
    assert actions(found) == {
        "sunglasses": "prune",
        "black eyepatch": "prune",
        "watercolor": "keep",
        "red hair": "keep",
    }


@pytest.mark.parametrize(
    ("tag", "word"),
    [
        ("red shirt", "without the typical clothes"),
        ("white background", "other surroundings"),
        ("from side", "other distances and angles"),
        ("smile", "other poses"),
        ("voxel art", "style bleed"),
        ("sword", "pictures without it"),
        ("watermark", "Crop it away"),
        ("blorp", "pictures without it"),
    ],
)
def test_what_follows_from_a_tag_on_nearly_all_pictures_is_said_by_its_kind(tag, word):
    (fused,) = judged(repeated((tag, 18))).fused
    assert fused.tags == ("zorbi", tag) and fused.share == 0.9 and word in fused.text


def test_a_style_is_told_to_show_other_subjects():
    (fused,) = judged(repeated(("red hair", 18)), "style").fused
    assert "other subjects" in fused.text


def test_what_is_to_be_pruned_or_harmless_is_not_called_fused():
    assert judged(repeated(("green hair", 20), ("1girl", 20), ("best quality", 20))).fused == ()


def test_tags_that_hardly_stand_apart_are_one_group():
    captions = ["zorbi, beret, scarf, cane", "zorbi, tree"] * 6
    (fused,) = judged(captions).fused
    assert fused.tags == ("beret", "cane", "scarf") and fused.share == 0.5 and "6 pictures" in fused.text


def test_of_many_tags_that_stand_together_the_general_ones_are_left_out():
    captions = ["zorbi, beach, outdoors, cap, cane, tree, ball, dog, cat", "zorbi, bow"] * 6
    (fused,) = judged(captions).fused
    assert len(fused.tags) == 7 and "outdoors" not in fused.tags and "and 2 more stand together" in fused.text


def test_what_says_a_pruned_trait_more_precisely_goes_with_it():
    found = judged(repeated(("long hair", 18), ("very long hair", 2)), answers=Answers("zorbi"))
    assert actions(found) == {"long hair": "prune", "very long hair": "prune"}
    assert "long hair as well" in why(found, "very long hair")


def test_what_implies_another_tag_is_not_fused_with_it():
    assert judged(["zorbi, shirt, red shirt", "zorbi, tree"] * 6).fused == ()


def test_too_few_captions_say_nothing():
    found = judged(["zorbi, green hair"] * 5 + [""] * 20)
    assert found.proposals == () and found.fused == ()


@pytest.mark.parametrize("kind", ["character", "style", "concept"])
@pytest.mark.parametrize("seed", range(8))
def test_order_and_case_make_no_difference_and_the_trigger_is_never_proposed(kind, seed):
    rng = random.Random(seed)
    pool = ["green hair", "red shirt", "smile", "watercolor", "hat", "tree", "blorp", "Zorbi", "long hair", "1girl"]
    captions = {image: ", ".join(["zorbi", *rng.choices(pool, k=5)]) for image in range(20)}
    found = absorbed(captions, kind, ZORBI, CATEGORY)
    other = {image: captions[image].upper() for image in reversed(captions)}
    again = absorbed(other, kind, ZORBI, CATEGORY)
    assert {(one.tag.casefold(), one.action, one.share) for one in found.proposals} == {
        (one.tag.casefold(), one.action, one.share) for one in again.proposals
    }
    assert "zorbi" not in {one.tag.casefold() for one in found.proposals}
    assert len(actions(found)) == len(found.proposals)
