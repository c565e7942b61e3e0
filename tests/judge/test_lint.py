import random
import re

import pytest

from lora_studio.core import captions as caption_text
from lora_studio.core.tags import book
from lora_studio.judge.lint import lint
from lora_studio.judge.lint_text import lint_prose
from lora_studio.judge.problems import GRAVITY, KINDS

GOOD = [
    "zorbi, smile, red shirt, blue background",
    "zorbi, frown, blue shirt, red background",
    "zorbi, open mouth, green shirt, white background",
    "zorbi, smile, black shirt, pink background",
    "zorbi, frown, white shirt, grey background",
    "zorbi, smile, red shirt, grey background",
    "zorbi, open mouth, blue shirt, pink background",
    "zorbi, frown, green shirt, blue background",
]


def checked(*captions: str, good=GOOD, trigger="zorbi", **more):
    """The problems of the good captions and then these, which have the ids from 9 on."""
    return lint(dict(enumerate([*good, *captions], 1)), trigger, **more)


def one(problems, kind):
    (problem,) = [problem for problem in problems if problem.kind == kind]
    return problem


def test_nothing_is_wrong_with_good_captions():
    assert checked() == []
    assert lint({}) == []


@pytest.mark.parametrize(
    ("kind", "captions", "ids", "fix"),
    [
        ("uncaptioned", ["", " ,"], (9, 10), None),
        ("trigger_missing", ["smile, hat"], (9,), {"do": "trigger"}),
        ("trigger_later", ["smile, Zorbi, hat"], (9,), {"do": "trigger"}),
        ("only_trigger", ["Zorbi"], (9,), None),
        ("typo", ["zorbi, smlie"], (9,), {"do": "rename", "tags": ["smlie"], "new": "smile"}),
        ("typo", ["zorbii, smile"], (9,), {"do": "rename", "tags": ["zorbii"], "new": "zorbi"}),
        ("alias", ["zorbi, gray hair", "zorbi, twin tails"], (9, 10), {"do": "aliases"}),
        ("underscores", ["zorbi, green_hair, ^_^, score_9"], (9,), {"do": "underscores"}),
        ("repeat", ["zorbi, hat, Hat"], (9,), {"do": "dedupe"}),
        ("repeat", ["zorbi, , hat"], (9,), {"do": "dedupe"}),
        ("redundant", ["zorbi, shirt, white shirt"], (9,), {"do": "redundant"}),
        ("not_visible", ["zorbi, smile, absurdres"], (9,), {"do": "remove", "tags": ["absurdres"]}),
        ("file_name", ["IMG_2041.jpg"], (9,), {"do": "clear"}),
        ("file_name", ["zorbi, smile, img_2041.jpg"], (9,), {"do": "remove", "tags": ["img_2041.jpg"]}),
        ("mojibake", ["zorbi, cafÃ©"], (9,), {"do": "mojibake"}),
        ("identical", ["zorbi, hat, bow", "zorbi,  hat, Bow"], (9, 10), None),
        ("prompt_syntax", ["zorbi, star \\(sky\\)"], (9,), {"do": "regex", "pattern": r"\\([()])", "by": r"\1"}),
        ("single", ["zorbi, blorp"], (9,), {"do": "remove", "tags": ["blorp"]}),
    ],
)
def test_each_problem_is_found_with_its_pictures_and_its_fix(kind, captions, ids, fix):
    problem = one(checked(*captions), kind)
    assert problem.ids == ids and problem.fix == fix and problem.text and problem.remedy


def test_a_caption_that_is_the_pictures_own_name_is_found():
    problems = checked("castle tower_02", "beret", names={9: "Castle Tower 02.PNG", 10: "beret.png"})
    assert one(problems, "file_name").ids == (9,)  # `beret` is a word of its own
    problems = checked("zorbi, smile, holiday 07", names={9: "holiday_07.png"})
    assert one(problems, "file_name").fix == {"do": "remove", "tags": ["holiday 07"]}


def test_of_a_caption_that_is_a_file_name_nothing_else_is_said():
    assert [found.kind for found in checked("hat_041", names={9: "hat_041.png"})] == ["file_name"]


@pytest.mark.parametrize(
    "caption",
    [
        "zorbi, blue hair, green eyes",
        "zorbi, two-tone hair, blue hair, pink hair",
        "zorbi, heterochromia, blue eyes, red eyes",
        "zorbi, 2girls, blue hair, pink hair",  # of two people each has one
        "zorbi, 1girl, 1boy, long hair, short hair",
        "zorbi, red shirt, blue skirt",
        "zorbi, long hair, very long hair",  # says one thing twice, but no other
        "zorbi, light blue hair, blue hair",
        "zorbi, dark skin, dark-skinned female",
        "zorbi, gradient background, blue background, white background",
    ],
)
def test_what_may_stand_together_is_no_contradiction(caption):
    assert "contradiction" not in {problem.kind for problem in checked(caption)}


@pytest.mark.parametrize(
    ("caption", "pair"),
    [
        ("zorbi, long hair, short hair", ["long hair", "short hair"]),
        ("zorbi, blue hair, blonde hair", ["blonde hair", "blue hair"]),
        ("zorbi, light skin, dark-skinned male", ["dark-skinned male", "light skin"]),
        ("zorbi, white background, pink background", ["pink background", "white background"]),
        ("zorbi, 2girls, day, night", ["day", "night"]),  # holds for the picture, not for a person
        ("zorbi, open eyes, closed eyes", ["closed eyes", "open eyes"]),
        ("zorbi, solo, multiple girls", ["multiple girls", "solo"]),
    ],
)
def test_what_cannot_both_be_is_a_contradiction(caption, pair):
    problem = one(checked(caption, good=()), "contradiction")
    assert problem.evidence["tags"] == pair and problem.ids == (1,) and problem.fix is None


def test_which_tag_is_wrong_is_told_by_the_other_pictures():
    problem = one(checked("zorbi, long hair, short hair", good=["zorbi, long hair"] * 5), "contradiction")
    assert problem.fix == {"do": "remove", "tags": ["short hair"]} and "long hair is on 6 pictures" in problem.remedy


def test_which_tag_is_wrong_is_told_better_by_the_tagger():
    captions = {1: "a, long hair, short hair", 2: "a, long hair, short hair", 3: "a, long hair, short hair"}
    scores = {1: {"long hair": 0.9}, 2: {"short hair": 0.8, "long hair": 0.1}, 3: {"long hair": 0.5, "short hair": 0.4}}
    found = [problem for problem in lint(captions, "a", scores=scores) if problem.kind == "contradiction"]
    assert {problem.ids: problem.fix and problem.fix["tags"] for problem in found} == {
        (1,): ["short hair"],
        (2,): ["long hair"],
        (3,): None,
    }


def test_captions_beyond_what_is_read_are_told_with_how_much_is_lost():
    problem = one(checked(tokens={1: (70, 80), 2: (75, 75), 3: (90,)}, limits=(75, 75)), "too_long")
    assert problem.ids == (1, 3) and problem.evidence == {"limit": 75, "most_over": 15} and problem.fix is None
    assert "too_long" not in {found.kind for found in checked(tokens={1: (500,)})}  # the limits are not known


def test_known_words_are_no_slips_and_singletons_of_the_list_are_fine():
    assert [found.kind for found in checked("zorbi, blorp", known=["blorp"])] == []
    assert [found.kind for found in checked("zorbi, katana")] == []


def test_when_most_tags_stand_once_it_is_said_without_a_fix():
    captions = [f"zorbi, {tag}" for tag in list(book().tags)[400:460]]
    found = [problem for problem in checked(*captions, good=()) if problem.kind == "single"]
    assert [problem.fix for problem in found] == [None] and len(found[0].ids) == 60


def test_letters_that_are_lost_are_told_apart_from_those_that_can_be_repaired():
    found = [
        (problem.ids, problem.fix)
        for problem in checked("zorbi, caf\ufffd", "zorbi, naÃ¯ve")
        if problem.kind == "mojibake"
    ]
    assert found == [((10,), {"do": "mojibake"}), ((9,), None)]


def test_the_gravest_come_first():
    problems = checked("", "smile", "zorbi, hat, Hat", "IMG_0001.png")
    levels = [GRAVITY.index(problem.level) for problem in problems]
    assert levels == sorted(levels) and problems[0].level == "bad"


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_captions_hold_the_answer_is_whole(seed):
    """Odd captions break nothing; ids are pictures that there are, kinds are known, texts stay sane."""
    rng = random.Random(seed)
    pool = ["zorbi", "long hair", "short hair", "white_shirt", "shirt", "smlie", "Ã©", "\ufffd", "<b>&amp;", "שלום",
            "😀", "{a|b}", "(x:1.2)", "\\(", "", " ", "\n", "İ", "ß" * 300, "a.png", "%s {0}"]  # fmt: skip
    captions = {image: ", ".join(rng.choices(pool, k=rng.randrange(7))) for image in range(1, 30)}
    shuffled = list(captions.items())
    rng.shuffle(shuffled)
    found = lint(captions, "zorbi", names={1: "a.png"})
    for problem in found:
        assert (
            problem.kind in KINDS and set(problem.ids) <= captions.keys() and len(set(problem.ids)) == len(problem.ids)
        )
    again = lint(dict(shuffled), "zorbi", names={1: "a.png"})
    assert {(one.kind, one.text, frozenset(one.ids)) for one in found} == {
        (one.kind, one.text, frozenset(one.ids)) for one in again
    }
    tags = {problem.kind: problem for problem in found}
    if "repeat" in tags:
        assert all(", ".join(caption_text.split(captions[image])) != captions[image] for image in tags["repeat"].ids)


# --- sentences -------------------------------------------------------------------------------------------------------


def prose(*texts: str, **more):
    return lint_prose(dict(enumerate(texts, 1)), "zorbi", **more)


def test_good_sentences_are_left_alone_whatever_commas_they_have():
    assert prose("A portrait of zorbi, smiling, smiling, in a red, torn shirt.", "Zorbi's back, seen at night.") == []


@pytest.mark.parametrize(
    ("kind", "text", "fix"),
    [
        ("uncaptioned", " ", None),
        ("trigger_missing", "A zorbian child.", {"do": "trigger", "field": "prose"}),
        ("mojibake", "zorbi in a cafÃ©.", {"do": "mojibake", "field": "prose"}),
        ("file_name", "IMG_2041.jpg", {"do": "clear", "field": "prose"}),
        ("identical", "zorbi, who  smiles.", None),
    ],
)
def test_each_problem_of_sentences_is_found(kind, text, fix):
    problem = one(prose("Zorbi, who smiles.", text), kind)
    assert 2 in problem.ids and problem.fix == fix


def test_a_word_that_stands_twice_is_found_and_its_fix_keeps_one():
    text = "Zorbi sits on the the THE bench, and that that is very very good."
    problem = one(prose(text), "repeat")
    assert re.sub(problem.fix["pattern"], problem.fix["by"], text) == text.replace("the the THE", "the")


def test_beside_tags_sentences_need_no_trigger_and_may_be_missing():
    assert prose("", "A child.", alone=False) == []
