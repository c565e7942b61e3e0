import random
import string

import pytest

from lora_studio.core.tags import book
from lora_studio.judge.spelling import misspelt, within


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("smlie", "smile"),
        ("smille", "smile"),
        ("expresionles", "expressionless"),
        ("twin tail s", "twintails"),
        ("open-mouth", "open mouth"),
        ("looking at veiwer", "looking at viewer"),
        ("bleu background", "blue background"),
        ("gray coat", "grey coat"),
        ("coloured inner hair", "colored inner hair"),
        ("green_hiar", "green hair"),
        ("red skrit", "red skirt"),
        ("embarased", "embarrassed"),
    ],
)
def test_a_slip_is_found_and_what_is_meant_named(wrong, right):
    assert misspelt({wrong: 1}, book()) == {wrong: right}


@pytest.mark.parametrize(
    "tag",
    [
        "smile", "zmile", "blue hair", "dark hair", "3girls", "10girls", "torn shirt", "zorbi", "cat", "wall",
        "ganyu (genshin impact)", "red_hair", "^_^", "a", "long hat", "シャツ", "😀😀😀😀😀", "score_9",
    ],
)  # fmt: skip
def test_what_is_right_or_unknown_is_left_alone(tag):
    assert misspelt({tag: 1}, book()) == {}


def test_a_word_of_the_language_is_doubted_only_where_letters_are_swapped():
    words = {"belly", "starring", "bleu"}
    assert misspelt({"starring": 1}, book()) == {"starring": "staring"}
    assert misspelt({"belly": 1, "starring": 1, "bleu hair": 1}, book(), words=words) == {"bleu hair": "blue hair"}


def test_a_rare_tag_is_measured_by_the_frequent_ones_of_the_project():
    assert misspelt({"zorbian crest": 9, "zorbain crest": 1}, book()) == {"zorbain crest": "zorbian crest"}
    assert misspelt({"zorbian crest": 9, "zorbain crest": 8}, book()) == {}
    assert misspelt({"zorbian crest": 5, "zorbain crest": 2}, book()) == {}
    assert misspelt({"smlie": 40}, book()) == {"smlie": "smile"}  # one slip in a search and replace
    assert misspelt({"zorbii": 1}, book(), more=["zorbi"]) == {"zorbii": "zorbi"}


def edits(one: str, other: str) -> int:
    """Optimal string alignment distance by its recursion."""
    if not one or not other:
        return len(one) + len(other)
    found = [edits(one[1:], other) + 1, edits(one, other[1:]) + 1, edits(one[1:], other[1:]) + (one[0] != other[0])]
    if len(one) > 1 and len(other) > 1 and one[0] == other[1] and one[1] == other[0]:
        found.append(edits(one[2:], other[2:]) + 1)
    return min(found)


@pytest.mark.parametrize("seed", range(40))
def test_the_distance_is_that_of_its_definition(seed):
    rng = random.Random(seed)
    one, other = ("".join(rng.choices("abc", k=rng.randrange(6))) for _ in range(2))
    for most in (0, 1, 2, 3):
        assert within(one, other, most) == (edits(one, other) <= most)
        assert within(one, other, most) == within(other, one, most)


@pytest.mark.parametrize("seed", range(40))
def test_every_slip_of_one_letter_in_a_long_word_is_found(seed):
    """The index of shortened forms misses none that comparing all pairs would find."""
    rng = random.Random(seed)
    words = [tag for tag in book().tags if " " not in tag and tag.isalpha() and len(tag) >= 9]
    word = rng.choice(words)
    place, letter = rng.randrange(1, len(word) - 1), rng.choice(string.ascii_lowercase)
    kind = seed % 4
    swapped = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    wrong = [word[:place] + word[place + 1 :], word[:place] + letter + word[place:],
             word[:place] + letter + word[place + 1 :], swapped][kind]  # fmt: skip
    if wrong in book().tags or wrong in book().aliases:
        return
    found = misspelt({wrong: 1}, book()).get(wrong)
    assert (found is not None and within(wrong, found, 2)) or found in book().aliases.values()
