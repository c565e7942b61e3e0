"""A picture's words in a step: what chance changes of them, and what it never does."""

import random
from typing import Any

import pytest

from lora_studio.engine.config import DataConfig
from lora_studio.engine.wording import Words, choose, mentions, varies, vary, without_trigger

CAPTION = "zorbi, a, b, c, d"


def shown(words: Words | str = CAPTION, count: int = 200, **changes: Any) -> list[Any]:
    config = DataConfig(**{"shuffle_tags": False, **changes})
    words = words if isinstance(words, Words) else Words(words)
    return [vary(words, config, random.Random(index)) for index in range(count)]


def tags_of(*args: Any, **changes: Any) -> list[list[str]]:
    return [one.text.split(", ") for one in shown(*args, **changes)]


def test_captions_stay_as_they_are_unless_asked_otherwise() -> None:
    assert {one.text for one in shown("B,a,  b, a {x|y}")} == {"B,a,  b, a {x|y}"}


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_kept_tags_stay_in_front_through_shuffling_and_dropout(keep: int) -> None:
    for tags in tags_of(shuffle_tags=True, tag_dropout=0.5, keep_tokens=keep):
        assert tags[:keep] == ["zorbi", "a", "b", "c", "d"][:keep]
    assert len({tuple(tags) for tags in tags_of(shuffle_tags=True, keep_tokens=keep)}) > 1


def test_dropouts_have_their_shares() -> None:
    whole = tags_of(count=1000, caption_dropout=0.3)
    assert sum(tags == [""] for tags in whole) / 1000 == pytest.approx(0.3, abs=0.05)
    parts = tags_of(count=1000, tag_dropout=0.25, keep_tokens=1)
    assert sum(len(tags) - 1 for tags in parts) / 4000 == pytest.approx(0.75, abs=0.05)


def test_what_was_dropped_is_told_in_order() -> None:
    for one in shown(Words("zorbi, a, b, c, d"), shuffle_tags=True, tag_dropout=0.5):
        left = one.text.split(", ")
        assert list(one.dropped) == [tag for tag in ["a", "b", "c", "d"] if tag not in left]
    assert shown(caption_dropout=1.0, count=1)[0].dropped == ("zorbi", "a", "b", "c", "d")


# --- the trigger ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", ["zorbi, a, b, c", "a, b, Zorbi, c", "a, b, c", "ZORBI, a, b, c"])
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_the_trigger_is_first_and_whole_whatever_is_shuffled_and_dropped(caption: str, keep: int) -> None:
    words = Words(caption, trigger="zorbi")
    for tags in tags_of(words, shuffle_tags=True, tag_dropout=0.9, keep_tokens=keep):
        assert tags[0].casefold() == "zorbi" and [tag.casefold() for tag in tags].count("zorbi") == 1
    assert {tags[0].casefold() for tags in tags_of(words)} == {"zorbi"}


def test_a_trigger_of_several_words_is_one_tag() -> None:
    for tags in tags_of(Words("hat, my zorbi, a, b", trigger="my zorbi"), shuffle_tags=True, tag_dropout=0.5):
        assert tags[0] == "my zorbi"


@pytest.mark.parametrize(
    ("prose", "text"),
    [
        ("A woman, on a beach.", "zorbi, A woman, on a beach."),
        ("Zorbi on a beach, smiling.", "Zorbi on a beach, smiling."),
        ("zorbina on a beach", "zorbi, zorbina on a beach"),
        ("A photo of zorbi", "zorbi, A photo of zorbi"),
        ("", "zorbi"),
        ("  \n", "zorbi"),
    ],
)
def test_the_trigger_leads_sentences_too(prose: str, text: str) -> None:
    assert shown(Words("", prose, "zorbi"), count=1)[0].text.strip(", \n") == text


def test_the_trigger_is_never_put_in_twice() -> None:
    for words in (Words("a, b", "Some text.", "zorbi"), Words("", "Some text.", "zorbi"), Words("", "", "zorbi")):
        assert words.led.led == words.led


def test_only_caption_dropout_takes_the_trigger() -> None:
    assert {one.text for one in shown(Words("a", "Text.", "zorbi"), caption_dropout=1.0)} == {""}


@pytest.mark.parametrize(
    ("caption", "trigger", "expected"),
    [
        ("zorbi, red hair, smile", "zorbi", "red hair, smile"),
        ("Zorbi, red hair", "zorbi", "red hair"),
        ("a photo of zorbi on a beach, sunny", "zorbi", "a photo of on a beach, sunny"),
        ("zorbi style, zorbina", "zorbi", "style, zorbina"),
        ("red hair", "zorbi", "red hair"),
        ("red hair", "", "red hair"),
        ("zorbi", "zorbi", ""),
        ("zorbi, zorbi hat, tree", "zorbi, zorbi hat", "tree"),
        ("ganyu (genshin), horns", "ganyu (genshin)", "horns"),
        ("", "zorbi", ""),
    ],
)
def test_the_trigger_is_taken_out_of_a_caption(caption: str, trigger: str, expected: str) -> None:
    assert without_trigger(caption, trigger) == expected


def test_the_trigger_is_taken_out_of_sentences_without_touching_their_commas() -> None:
    one = shown(Words("zorbi, hat", "Zorbi sits, and sits, and sits.", "zorbi"), count=1)[0]
    assert one.without_trigger == "hat, sits, and sits, and sits."
    assert shown(Words("", "A woman, smiling.", "zorbi"), count=1)[0].without_trigger == "A woman, smiling."


# --- sentences --------------------------------------------------------------------------------------------------------

PROSE = "A woman, in red, in red. She holds {a cup|a cat}, smiling."


def test_sentences_are_never_split_shuffled_or_thinned_out() -> None:
    for words in (Words("", PROSE), Words("zorbi, a, b, c", PROSE)):
        for one in shown(words, shuffle_tags=True, tag_dropout=0.7, keep_tokens=0):
            assert one.prose == PROSE and one.text.endswith(PROSE)


def test_tags_come_before_sentences_and_are_varied_alone() -> None:
    found = {one.text for one in shown(Words("zorbi, a, b", "Hair, long.", "zorbi"), shuffle_tags=True)}
    assert found == {"zorbi, a, b, Hair, long.", "zorbi, b, a, Hair, long."}


def test_a_tag_is_mentioned_as_a_tag_or_as_words() -> None:
    assert mentions("a, Red Hat", "", "red hat") and mentions("", "In a red hat, smiling.", "Red hat")
    assert not mentions("red hats", "Many red hats.", "red hat") and not mentions("", "", "red hat")


# --- wildcards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("a {b|c} d", "a b d", "a c d"),
        ("{a|b|c}{d|e}", "ad", "ce"),
        ("{a {b|c}|d}", "a b", "d"),
        ("{|hat}", "", "hat"),
        ("{red hair, long hair|blue hair}", "red hair, long hair", "blue hair"),
        ("{a} | b", "{a} | b", "{a} | b"),
        ("a } b { c|d", "a } b { c|d", "a } b { c|d"),
        ("{a|b {c|d}", "{a|b c", "{a|b d"),
        ("}:) {}", "}:) {}", "}:) {}"),
        ("🦊 {مرحبا|שלום}", "🦊 مرحبا", "🦊 שלום"),
    ],
)
def test_one_of_a_wildcard_is_chosen(text: str, first: str, last: str) -> None:
    assert (choose(text, lambda choices: 0), choose(text, lambda choices: len(choices) - 1)) == (first, last)


@pytest.mark.parametrize("text", ["{" * 50_000, "{a|" * 9_999 + "}" * 9_999, "|}{" * 20_000, "{}" * 20_000])
def test_any_braces_are_read_without_harm(text: str) -> None:
    assert len(choose(text, lambda choices: len(choices) - 1)) <= len(text)


def test_wildcards_are_drawn_anew_each_time_in_equal_shares() -> None:
    words = Words("zorbi, {red hat, scarf|blue hat}, a", "With {a cup|a cat}.", "zorbi")
    found = [one.text for one in shown(words, count=1000, wildcards=True)]
    assert set(found) == {
        f"zorbi, {hat}, a, With {thing}." for hat in ("red hat, scarf", "blue hat") for thing in ("a cup", "a cat")
    }
    assert sum("blue" in text for text in found) / 1000 == pytest.approx(0.5, abs=0.05)
    assert {one.text for one in shown(words, count=20)} == {"zorbi, {red hat, scarf|blue hat}, a, With {a cup|a cat}."}


def test_the_whole_takes_the_first_choice_and_the_alternatives_show_each_one() -> None:
    words, config = Words("zorbi, {a|b|c}, {x|y}", "In {red|blue}."), DataConfig(wildcards=True)
    assert words.whole(config).text == "zorbi, a, x, In red."
    assert {tag for one in words.alternatives(config) for tag in one.tags.split(", ")} == set("abcxy") | {"zorbi"}
    assert [one.text for one in words.alternatives(DataConfig())] == ["zorbi, {a|b|c}, {x|y}, In {red|blue}."]


@pytest.mark.parametrize(
    ("words", "changes", "expected"),
    [
        (Words("a, b"), {"shuffle_tags": True}, True),
        (Words("a, b"), {"tag_dropout": 0.1}, True),
        (Words("", "Text, more."), {"shuffle_tags": True, "tag_dropout": 0.1}, False),
        (Words("{a|b}"), {}, False),
        (Words("", "{a|b}"), {"wildcards": True}, True),
    ],
)
def test_captions_that_chance_cannot_change_are_known(words: Words, changes: dict[str, Any], expected: bool) -> None:
    assert varies(words, DataConfig(**{"shuffle_tags": False, **changes})) is expected
