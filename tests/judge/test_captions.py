import pytest

from lora_studio.judge.captions import findings, tag_counts

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


def judged(captions, trigger="zorbi", kind="character", varies=()):
    return findings(dict(enumerate(captions, 1)), trigger, kind, varies)


def about(found, word):
    return [finding for finding in found if word in finding.text]


def test_good_captions_are_called_good():
    found = judged(GOOD)
    assert [finding.level for finding in found] == ["good"]


def test_pictures_without_caption_are_counted_and_named():
    (finding,) = about(judged([*GOOD, "", " , "]), "no caption")
    assert finding.level == "warn" and finding.images == (9, 10) and finding.text.startswith("2 of 10")
    assert about(judged(["", ""]), "no caption")[0].level == "bad"


def test_a_trigger_that_is_missing_or_later_is_said_with_its_pictures():
    found = judged([*GOOD, "smile, red shirt", "smile, Zorbi, red shirt"])
    (missing,), (later,) = about(found, "missing"), about(found, "not first")
    assert missing.level == "bad" and missing.images == (9,)
    assert later.level == "warn" and later.images == (10,)
    assert found[0] is missing


def test_no_trigger_at_all_is_said():
    assert about(judged(GOOD, trigger=""), "no trigger word")[0].level == "warn"


@pytest.mark.parametrize(
    ("caption", "pair"),
    [
        ("zorbi, blue hair, green hair", ["blue hair", "green hair"]),
        ("zorbi, white background, pink background", ["pink background", "white background"]),
        ("zorbi, light skin, dark skin", ["dark skin", "light skin"]),
        ("zorbi, short hair, long hair", ["long hair", "short hair"]),
    ],
)
def test_two_values_of_one_thing_contradict(caption, pair):
    (finding,) = about(judged([*GOOD, caption]), "stand together")
    assert finding.evidence["tags"] == pair and finding.images == (9,)


@pytest.mark.parametrize(
    "caption",
    ["zorbi, blue hair, green eyes", "zorbi, multicolored hair, blue hair, pink hair", "zorbi, red shirt, blue shirt"],
)
def test_what_may_stand_together_is_left_alone(caption):
    assert about(judged([*GOOD, caption]), "stand together") == []


@pytest.mark.parametrize("kind", ["character", "style", "concept"])
def test_tags_on_nearly_all_pictures_share_the_triggers_meaning(kind):
    captions = [caption.replace("zorbi", "zorbi, green hair, twintails") for caption in GOOD]
    (finding,) = about(judged(captions, kind=kind), "nearly all")
    assert finding.evidence["tags"] == ["green hair", "twintails"] and "prune" in finding.remedy.casefold()


def test_what_the_plan_lets_vary_is_never_to_be_pruned():
    captions = [caption.replace("zorbi", "zorbi, smile") for caption in GOOD]
    assert about(judged(captions), "nearly all") and not about(judged(captions, varies=["smile"]), "nearly all")


@pytest.mark.parametrize("wrong", ["smiel", "smlie", "simle"])
def test_a_misspelt_tag_is_shown_with_the_frequent_one(wrong):
    (finding,) = about(judged([*GOOD, f"zorbi, {wrong}"]), "misspelt")
    assert finding.evidence["pairs"] == [[wrong, "smile"]] and finding.images == (9,)


def test_underscores_count_as_another_spelling():
    (finding,) = about(judged([*GOOD, *GOOD, *GOOD, "zorbi, red_shirt"]), "misspelt")
    assert finding.evidence["pairs"] == [["red_shirt", "red shirt"]]


@pytest.mark.parametrize("other", ["bed shirt", "rose shirt", "gray background", "smile 2", "tan shirt"])
def test_another_tag_is_no_misspelling(other):
    assert about(judged([*GOOD, *GOOD, f"zorbi, {other}"]), "misspelt") == []


def test_bare_triggers_and_one_off_tags_are_said():
    found = judged(["zorbi", *(f"zorbi, thing {letter}" for letter in "abcdefgh")])
    assert about(found, "nothing but the trigger")[0].images == (1,)
    assert about(found, "one picture only")


def test_counts_are_sorted():
    assert tag_counts({1: "b, a", 2: "b"}) == [("b", 2), ("a", 1)]


def test_an_empty_project_is_no_error():
    assert findings({}, "zorbi", "character")[0].level == "info"
