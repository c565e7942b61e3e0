import random
from collections import Counter

import pytest

from lora_studio.core.captions import split
from lora_studio.core.tags import categoriser
from lora_studio.judge import tags

CATEGORY = categoriser()
CAPTIONS = {
    1: "zorbi, smile, red shirt",
    2: "zorbi, Smile, blue shirt",
    3: "smile",
    4: "",
}


def messy(seed: int) -> dict[int, str]:
    """Captions with odd blanks, empty tags, repeats, line breaks, other scripts and HTML."""
    rng = random.Random(seed)
    pool = [
        "smile",
        "Smile",
        " hat",
        "é",
        "İ",
        "ß",
        "<b>",
        "^_^",
        "a  b",
        "",
        " ",
        "\n",
        "x\ny",
        "שלום",
        "😀",
        "(a:1.2)",
    ]
    return {
        image: rng.choice([",", ", ", " ,\n"]).join(rng.choices(pool, k=rng.randrange(9))) for image in range(1, 40)
    }


@pytest.mark.parametrize("seed", range(20))
def test_tags_are_counted_as_captions_are_split(seed):
    captions = messy(seed)
    assert tags.keys(captions) == {image: split(caption.casefold()) for image, caption in captions.items()}
    expected = Counter(tag for caption in captions.values() for tag in split(caption.casefold()))
    rows = tags.table(captions, "hat", CATEGORY)
    assert {row.tag.casefold(): row.count for row in rows} == expected
    assert [row.count for row in rows] == sorted(expected.values(), reverse=True)
    assert all(0 < row.share <= 1 and 0 <= row.with_trigger <= 1 for row in rows)


@pytest.mark.parametrize("seed", range(20))
def test_tags_together_are_counted_as_by_hand(seed):
    captions = messy(seed)
    names, counts = tags.together(captions, most=6)
    sets = [set(split(caption.casefold())) for caption in captions.values()]
    by_hand = [[sum({one.casefold(), two.casefold()} <= here for here in sets) for two in names] for one in names]
    assert counts.tolist() == by_hand and len(names) <= 6


def test_the_table_says_count_share_category_and_the_trigger_beside():
    rows = {row.tag: row for row in tags.table(CAPTIONS, "zorbi", CATEGORY)}
    smile = rows["smile"]
    assert (smile.count, smile.share, smile.category) == (3, 0.75, "expression")
    assert smile.with_trigger == pytest.approx(2 / 3) and rows["red shirt"].with_trigger == 1
    assert {row.with_trigger for row in tags.table(CAPTIONS, "", CATEGORY)} == {0}


def test_a_tag_is_shown_as_it_is_mostly_written():
    rows = tags.table({1: "Zorbi", 2: "Zorbi", 3: "zorbi"}, "zorbi", CATEGORY)
    assert [(row.tag, row.count) for row in rows] == [("Zorbi", 3)]


def test_the_balance_counts_pictures_not_tags():
    found = {one.category: one for one in tags.balance({**CAPTIONS, 5: "red shirt, white shirt"}, CATEGORY)}
    clothes = found["clothes"]
    assert (clothes.pictures, clothes.uses, clothes.tags, clothes.share) == (3, 4, 3, 0.6)
    assert clothes.examples[0] == "red shirt"


def test_no_captions_are_no_error():
    for captions in ({}, {1: ""}, {1: " , "}):
        assert tags.table(captions, "zorbi", CATEGORY) == [] and tags.balance(captions, CATEGORY) == []
        assert tags.together(captions)[0] == []
