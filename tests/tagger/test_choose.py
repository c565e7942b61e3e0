import pytest

from lora_studio.tagger.choose import choose
from lora_studio.tagger.config import TagConfig
from lora_studio.tagger.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    ("voxel art", "ink style", "green hair", "blue hair", "freckles", "scar"),
    ("style", "style", "hair colour", "hair colour", "marks", "marks"),
    (0.5, 0.5, 0.2, 0.4, 0.6, 0.1),
)


def names(probabilities, **settings):
    return [name for name, _, _ in choose(probabilities, VOCABULARY, TagConfig(**settings))]


def test_each_tag_is_believed_from_its_own_level_on():
    assert names([0.49, 0.5, 0.19, 0, 0.59, 0.1]) == ["ink style", "scar"]


def test_a_threshold_counts_for_all_tags_alike():
    assert names([0.49, 0.5, 0.19, 0, 0.59, 0.1], threshold=0.55) == ["freckles"]
    assert names([0.31, 0, 0.31, 0, 0.31, 0], threshold=0.3) == ["voxel art", "green hair", "freckles"]


def test_of_an_exclusive_kind_the_likeliest_is_taken_and_of_others_all():
    assert names([0.9, 0.8, 0.7, 0.95, 0.9, 0.8]) == ["voxel art", "blue hair", "freckles", "scar"]
    assert names([0.9, 0.8, 0.7, 0.95, 0, 0], one_of=()) == ["voxel art", "ink style", "blue hair", "green hair"]


def test_an_excluded_tag_gives_its_place_to_the_next():
    assert names([0, 0, 0.7, 0.95, 0, 0], exclude=("Blue Hair",)) == ["green hair"]


def test_a_kind_can_be_left_out():
    assert names([0.9, 0, 0.7, 0, 0, 0], skip_categories=("style",)) == ["green hair"]


def test_at_most_so_many_and_the_surest():
    assert names([0.6, 0, 0.7, 0, 0.9, 0.8], max_tags=2) == ["freckles", "scar"]


def test_tags_carry_probability_and_category_as_plain_numbers():
    (tag,) = choose([0, 0, 0.123456, 0, 0, 0], VOCABULARY, TagConfig(threshold=0.1))
    assert tag == ("green hair", 0.1235, "hair colour") and type(tag[1]) is float


def test_probabilities_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="6 tags"):
        choose([0.5], VOCABULARY, TagConfig())


BOORU = Vocabulary(
    ("general", "sensitive", "long hair", "^_^", "hatsune miku"),
    ("rating", "rating", "general", "general", "character"),
    (0.05, 0.05, 0.35, 0.35, 0.85),
)


def booru(probabilities, **settings):
    return [name for name, _, _ in choose(probabilities, BOORU, TagConfig(**settings))]


def test_characters_have_a_level_of_their_own():
    assert booru([0, 0, 0.4, 0.3, 0.8]) == ["long hair"]
    assert booru([0, 0, 0.4, 0.3, 0.8], threshold=0.2) == ["long hair", "^_^"]
    assert booru([0, 0, 0.4, 0.3, 0.8], character_threshold=0.8) == ["long hair", "hatsune miku"]


def test_the_likeliest_rating_comes_last_and_only_when_it_is_wanted():
    assert booru([0.3, 0.02, 0.9, 0, 0], rating=True, threshold=0.5) == ["long hair", "general"]
    assert booru([0.3, 0.4, 0.9, 0, 0], rating=True) == ["long hair", "sensitive"]
    assert booru([0.3, 0.4, 0.9, 0, 0]) == ["long hair"]


def test_underscores_are_kept_when_they_are_wanted_and_those_of_faces_always():
    assert booru([0, 0, 0.9, 0.8, 0.9], underscores=True) == ["long_hair", "^_^", "hatsune_miku"]
    assert booru([0, 0, 0.9, 0.8, 0.9], exclude=("Long_Hair",)) == ["^_^", "hatsune miku"]
