import pytest

from lora_studio.tagger.combine import combine
from lora_studio.tagger.config import TagConfig

ONE = [("ink style", 0.9, "style"), ("smile", 0.6, "expression"), ("hat", 0.5, "general")]
OTHER = [("Hat", 0.8, "general"), ("scarf", 0.7, "general"), ("frown", 0.9, "expression")]


def names(found, kinds=(), **settings):
    return [name for name, _, _ in combine(found, TagConfig(models=("a", "b"), **settings), kinds)]


def test_one_tagger_alone_is_left_as_it_is():
    assert combine([ONE], TagConfig()) == ONE


def test_union_takes_what_any_of_them_finds_each_tag_once_and_as_sure_as_the_surer_one():
    found = combine([ONE, OTHER], TagConfig(models=("a", "b"), one_of=()))
    assert found == [
        ("ink style", 0.9, "style"),
        ("frown", 0.9, "expression"),
        ("smile", 0.6, "expression"),
        ("hat", 0.8, "general"),
        ("scarf", 0.7, "general"),
    ]


def test_intersection_takes_what_all_of_them_find_and_as_sure_as_the_less_sure_one():
    assert combine([ONE, OTHER], TagConfig(models=("a", "b"), combine="intersection")) == [("hat", 0.5, "general")]
    assert names([ONE, []], combine="intersection") == []


def test_of_an_exclusive_kind_one_is_left_whoever_found_it():
    assert names([ONE, OTHER], one_of=("Expression",)) == ["ink style", "frown", "hat", "scarf"]


def test_at_most_so_many_in_all_the_surest_ones():
    assert names([ONE, OTHER], max_tags=2) == ["ink style", "frown"]


@pytest.mark.parametrize(
    ("kinds", "first"), [(("general", "style"), "hat"), (("expression",), "frown"), ((), "ink style")]
)
def test_kinds_come_in_the_order_of_the_vocabularies(kinds, first):
    assert names([ONE, OTHER], kinds)[0] == first


def test_of_two_ratings_the_surer_one_is_left_and_comes_last():
    found = [[("general", 0.6, "rating"), *ONE], [("sensitive", 0.8, "rating")]]
    assert names(found, ("rating", "style")) == ["ink style", "smile", "hat", "sensitive"]
