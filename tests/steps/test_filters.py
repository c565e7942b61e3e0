"""The filter language of the grid: what it finds, and how it says that it did not understand."""

import json
import random
from contextlib import suppress

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.judge.facts import Flag
from lora_studio.steps import captioning, curation, filters, looking, tokens
from lora_studio.steps.rows import NUMBERS, STATES, TEXTS, rows
from tests.core.test_project import add


def looks(grey: int, phash: int) -> dict:
    """Of a picture unlike the others."""
    return {"signature": bytes([grey] * 192), "phash": phash}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """Four pictures: 1 sharp and kept, 2 soft, 3 wide with a hat, 4 rejected with a crop, tagged `a "b" c`."""
    project = Project.create(tmp_path_factory.mktemp("p"), Plan(name="Zorbi", trigger="zorbi"))
    origin = json.dumps({"site": "e621", "rating": "safe"})
    add(project, "red", sharpness=0.4, caption="zorbi, Red Hat", author="Ann", **looks(0, 0))
    add(project, "green", sharpness=0.05, caption="zorbi, smile", url="https://example.org/2", **looks(30, 2**20 - 1))
    add(project, "blue", sharpness=0.4, width=1920, height=600, **looks(90, 2**40 - 1))
    add(project, "yellow", sharpness=0.4, caption='a "b" c', origin=origin, **looks(60, 2**60 - 1))
    with project.edit("x") as edit:
        edit.set(1, decision="keep")
        edit.set(4, decision="reject", reason="blurred", crop=(0, 0, 0.5, 1), more_crops=[(0.5, 0, 1, 1)], mask="m")
    faces = {image.sha256: json.dumps([[0, 0, 0.5, 0.5]] * (image.id - 1)).encode() for image in project.images()[:3]}
    Looks(project.folder).put(looking.FACES, faces)
    return project


CASES = {
    "": [1, 2, 3, 4],
    "   ": [1, 2, 3, 4],
    "keep": [1],
    "not keep": [2, 3, 4],
    "KEPT or Rejected": [1, 4],
    "keep | reject": [1, 4],
    "blur < 0.3 and not keep": [3, 4],
    "blur<0.3 not keep": [3, 4],
    "blur > 80%": [2],
    "not (keep or reject) and blur < .3": [3],
    "not not keep": [1],
    "!keep && !reject": [2, 3],
    "not keep and reject or new": [2, 3, 4],  # and binds closer than or
    "tag:hat": [],
    "tag:*hat": [1],
    'tag:"red hat"': [1],
    "tag:zorbi": [1, 2],
    "tag!=zorbi": [3, 4],
    "name:e": [1, 2, 3, 4],
    "name=red.png": [1],
    "name:RED": [1],
    r'"a \"b\""': [4],
    "caption:smile": [2],
    "author:ann": [1],
    "url:example": [2],
    "site:e621 rating=safe": [4],
    "decision:new": [2, 3],
    "reason:blur": [4],
    "width >= 1920": [3],
    "width < 512 and height = 48": [1, 2, 4],
    "aspect = 16:5": [3],
    "aspect > 1.5": [3],
    "pixels > 1mp": [3],
    "crops = 2": [4],
    "cropped or masked": [4],
    "used": [1, 2, 3],
    "captioned": [1, 2, 4],
    "faces = 0": [1],
    "faces > 0": [2, 3],
    "not faces > 0": [1],  # nobody has looked at 4: neither yes nor no
    "faces > 0 or keep": [1, 2, 3],
    "not (faces > 0 and new)": [1, 4],
    "not (faces > 0 or keep)": [],
    "faces > 0 and reject": [],
    "not (faces > 0 and reject)": [1, 2, 3],
    "face > 20%": [2, 3],
    "lettering > 5%": [],
    "not lettering > 5%": [],
    "tags = 2": [1, 2],
    "id != 3": [1, 2, 4],
    "blurred": [2],
    "flagged and not blurred": [3],
    "flag:blur*": [2],
    "flags = 0": [1, 4],
    "aspect": [3],
}
FLAGGED = {2: [Flag("blurred", "soft")], 3: [Flag("aspect", "wide")]}


@pytest.mark.parametrize("text", CASES)
def test_what_a_filter_finds(project, text):
    assert filters.select(rows(project, FLAGGED), filters.parse(text)) == CASES[text]


TAGGED = {
    1: ("zorbi, smile, long hair", "", 3),
    2: ("zorbi, Smile, hat", "Zorbi wears a hat. It smiles.", 80),
    3: ("", "A robot with long hair.", 76),
    4: ("keep, very long hair, sub/dir, hat (red)", "", None),
    5: ("zorbium", "", 75),
}
OF_CAPTIONS = {
    "smile": [1, 2],
    "SMILE and not hat": [1],
    "smile hat": [2],
    "hat or zorbium": [2, 5],
    '"long hair"': [1],
    '"a robot"': [3],
    '"hat (red)"': [4],
    "sub/dir": [4],
    '"keep"': [4],
    "keep": [],
    "count<5": [1, 2, 3, 4, 5],
    "count = 4": [4],
    "tokens>75": [2, 3],
    "not tokens>75": [1, 5],
    "untagged": [3],
    "captioned": [1, 2, 3, 4, 5],
    "has:trigger": [1, 2],
    "not has:trigger": [3, 4, 5],
    "has:prose": [2, 3],
    "has!=tags": [3],
    "has:crop or has:mask": [],
    "prose:smiles": [2],
    "prose:*hat*robot or prose:robot*hair": [3],
    "/long hair/": [1, 3, 4],
    "/^zorbi, (smile|x)/": [1, 2],
    "not /zorbi/ and count > 0": [4],
    "/sub\\/d/": [4],
    "tag:/^(very )?long/": [1, 4],
    "name:/[12]/": [1, 2],
    "source:/home/x": [],
    "smile and (/hat/ or tokens < 10)": [1, 2],
}


@pytest.fixture(scope="module")
def tagged(tmp_path_factory) -> Project:
    project = Project.create(tmp_path_factory.mktemp("p"), Plan(name="Zorbi", trigger="zorbi"))
    for image_id, (caption, prose, _) in TAGGED.items():
        add(project, f"#00000{image_id}", name=f"{image_id}.png", caption=caption, prose=prose)
    return project


@pytest.mark.parametrize("text", OF_CAPTIONS)
def test_what_a_filter_finds_in_captions(tagged, text):
    counts = {image_id: (1, count) for image_id, (_, _, count) in TAGGED.items() if count}
    every = rows(tagged, tokens=lambda: counts)
    assert filters.select(every, filters.parse(text, every)) == OF_CAPTIONS[text]


def test_tokens_are_those_of_the_projects_base(tagged):
    counted = {one: max(counts) for one, counts in tokens.counts(tagged, TAGGED).items()}
    most = max(counted.values())
    assert filters.find(tagged, f"tokens >= {most}") == [one for one, count in counted.items() if count == most]
    assert filters.find(tagged, "tokens > 0") == list(TAGGED)


def test_a_word_that_is_no_tag_is_told_with_the_tags_close_to_it(tagged):
    with pytest.raises(
        UserError, match=r"smlie \(letter 1\) is no word of the filter and no tag here. Close to it: smile"
    ):
        filters.find(tagged, "smlie")


def test_a_regular_expression_that_would_hang_is_given_up(tagged, monkeypatch):
    monkeypatch.setattr(filters, "SECONDS", 0.2)
    captioning.set_text(tagged, 5, "a" * 5000)
    try:
        with pytest.raises(UserError, match="takes longer"):
            filters.find(tagged, "/(a+a+)+(x+x+)+y/")
    finally:
        tagged.undo()


WRONG = {
    "/(/": ("At letter 1 (/(/)", "no regular expression"),
    "has:hat": ("At letter 5 (hat)", "trigger"),
    "/abc": ("/abc (letter 1) is no word", ""),
    "blurr < 3": ("blurr (letter 1) is no word", "blur"),
    "keep and sharpnes > 1": ("sharpnes (letter 10) is no word", "sharpness"),
    "hat": ("hat (letter 1) is no word", '"hat"'),
    "width": ("At letter 1 (width)", "width > 1"),
    "width < abc": ("At letter 9 (abc)", "none"),
    "width <": ("At the end", "missing"),
    "width < 1000000x": ("At letter 9", "none"),
    "name < 3": ("At letter 8 (3)", "name:3"),
    "keep = 1": ("At letter 1 (keep)", "leave out = 1"),
    "(keep": ("At the end", "letter 1"),
    "keep)": ("At letter 5", "no ("),
    "()": ("At letter 2", "missing"),
    "not": ("At the end", "missing"),
    "keep and and new": ("At letter 10", "missing"),
    "or keep": ("At letter 1", "missing"),
    "keep or": ("At the end", "missing"),
    'name:"a': ("quotation mark at letter 6", "two words"),
    "< 3": ("At letter 1", "missing"),
    "aspect = 3:0": ("At letter 10", "0"),
    "tag": ("At letter 1 (tag)", "tag:hat"),
    "(" * 60 + "keep" + ")" * 60: ("nested", "example"),
    "not " * 200 + "keep": ("nested", "example"),
    "k" * 2000: ("2000 letters", "1000"),
    "__import__('os').system('true')": ("is no word", ""),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_not_understood_is_named_with_its_place(text):
    with pytest.raises(UserError) as caught:
        filters.parse(text)
    message, hint = WRONG[text]
    assert message in caught.value.message and hint in f"{caught.value.message} {caught.value.remedy}"


def test_find_asks_the_judge_for_flags_when_a_filter_names_them(project):
    assert filters.find(project, "keep") == [1]
    judged = sorted(curation.audit(project).flags)
    assert 3 in judged and 1 not in judged
    assert filters.find(project, "flagged") == filters.find(project, "flags > 0") == judged


def test_sorting_puts_the_unknown_last_both_ways_and_keeps_equal_ones_in_order(project):
    assert filters.order(project, [4, 3, 2, 1], "sharpness") == [2, 1, 3, 4]
    assert filters.order(project, [1, 2, 3, 4], "sharpness", down=True) == [1, 3, 4, 2]
    assert filters.order(project, [1, 2, 3, 4], "faces", down=True) == [3, 2, 1, 4]
    assert filters.order(project, [4, 2], "name") == [2, 4]
    with pytest.raises(UserError, match="sharpness"):
        filters.order(project, [1], "sharpnes")


def build(dice: random.Random, depth: int) -> tuple[str, list[int]]:
    """A random filter, and what it must find by plain set arithmetic over words known to be yes or no of each."""
    everything = {1, 2, 3, 4}
    words = {"keep": {1}, "reject": {4}, "new": {2, 3}, "cropped": {4}, "width > 100": {3}, "tag:zorbi": {1, 2}}
    if depth == 0:
        word = dice.choice(list(words))
        return word, sorted(words[word])
    kind = dice.randrange(4)
    one, found = build(dice, depth - 1)
    if kind == 0:
        return f"not ({one})", sorted(everything - set(found))
    other, also = build(dice, dice.randrange(depth))
    if kind == 1:
        return f"({one}) or ({other})", sorted(set(found) | set(also))
    return f"({one}) {dice.choice(['and', '', '&'])} ({other})", sorted(set(found) & set(also))


def test_any_filter_finds_what_set_arithmetic_says(project):
    every, dice = rows(project), random.Random(7)
    for _ in range(300):
        text, expected = build(dice, dice.randrange(5))
        assert filters.select(every, filters.parse(text)) == expected, text


def test_any_text_is_either_understood_or_refused(project):
    """Never another kind of error, whatever is typed."""
    every, dice = rows(project), random.Random(11)
    pieces = [
        *NUMBERS,
        *STATES,
        *TEXTS,
        "and",
        "or",
        "not",
        "(",
        ")",
        '"',
        "<",
        ":",
        "=",
        "5",
        "%",
        " ",
        "é",
        "\\",
        "*",
        "/",
        "/.*/",
        "smile",
    ]
    understood = 0
    for _ in range(3000):
        text = dice.choice(["", " "]).join(dice.choice(pieces) for _ in range(dice.randrange(8)))
        with suppress(UserError):
            assert set(filters.select(every, filters.parse(text, every))) <= {1, 2, 3, 4}
            understood += 1
    assert 300 < understood < 2700


def test_every_word_has_a_meaning_for_the_help():
    assert all(about for words in filters.help_table().values() for about in words.values())
