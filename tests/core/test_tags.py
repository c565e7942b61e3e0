"""The list of common tags is consistent with itself and with the starter's tagger."""

import json

import pytest

from lora_studio.core import paths
from lora_studio.core.captions import split
from lora_studio.core.tags import OTHER, book, categoriser, read


def test_the_list_is_consistent():
    words = book()
    assert len(words.tags) > 900 and len(words.aliases) > 200
    assert set(words.tags.values()) <= set(words.categories)
    assert [tag for tag in words.tags if split(tag) != [tag] or tag != tag.casefold()] == []
    assert {alias: tag for alias, tag in words.aliases.items() if tag not in words.tags or alias in words.tags} == {}
    named = {*words.implications, *(one for implied in words.implications.values() for one in implied)}
    named |= {tag for group in words.exclusive for slot in (*group.slots, group.unless) for tag in slot}
    assert named - words.tags.keys() == set()


def test_no_tag_implies_itself_or_what_it_excludes():
    words = book()
    for tag in words.implications:
        implied = words.implied(tag)
        assert tag not in {one for general in implied for one in words.implied(general)}, tag
        for group in words.exclusive:
            mine = {place for place, slot in enumerate(group.slots) if not slot.isdisjoint({tag, *implied})}
            assert len(mine) <= 1, (tag, group.name)


def test_every_tag_of_the_starters_tagger_is_on_the_list_under_its_own_kind():
    entries = json.loads((paths.assets() / "starter" / "tagger" / "vocabulary.json").read_text("utf-8"))["tags"]
    ours = book().tags
    elsewhere = {one["name"]: one["category"] for one in entries if ours.get(one["name"]) != one["category"]}
    assert elsewhere == {"closed eyes": "eyes"}  # what a face does, no trait that the trigger should absorb


@pytest.mark.parametrize(
    ("tag", "category"),
    [
        ("green hair", "hair colour"),
        ("Green_Hair", "hair colour"),
        ("gray hair", "hair colour"),  # another spelling
        ("very strange hair", "hair"),  # by its last word
        ("torn red shirt", "clothes"),
        ("score_9", "quality"),
        ("^_^", "expression"),
        ("zorbi", OTHER),
        ("", OTHER),
    ],
)
def test_a_tag_has_a_category(tag, category):
    assert categoriser()(tag) == category


def test_the_taggers_own_list_helps_out_and_does_not_overrule():
    category = categoriser({"hatsune miku": "character", "smile": "character"})
    assert category("hatsune miku") == "character" and category("smile") == "expression"


def test_what_a_tag_implies_goes_all_the_way():
    words = book()
    assert words.implied("absurdly long hair") == {"very long hair", "long hair"}
    assert words.implied("red shirt") == {"shirt"} and words.implied("smile") == set()
    assert "back" not in words.implied("arms behind back")


def test_a_list_of_ones_own_is_read(tmp_path):
    (tmp_path / "a.toml").write_text(
        '[[category]]\nname = "hat"\ntitle = "Hats"\ngroup = "wear"\ntags = ["hat"]\n'
        '[[category.combine]]\nfirst = ["red"]\nlast = ["hat"]\n[one_of]\nhats = ["hat", "red hat"]\n',
        "utf-8",
    )
    words = read(tmp_path)
    assert dict(words.tags) == {"hat": "hat", "red hat": "hat"} and words.implied("red hat") == {"hat"}
    assert words.exclusive[0].slots == (frozenset({"hat"}), frozenset({"red hat"}))
