"""Whether a base reacts to a word, by pictures drawn with it and with words that nobody knows."""

from typing import Any

import numpy as np
import pytest

from lora_studio.judge.reaction import reaction

TAGS = ("smile", "green hair", "hat")


def drawn(seed: int, shift: float, likeness: float = 0.3) -> Any:
    """Embeddings of length 1 of 5 words (the first one moved by `shift` in a direction of its own), 2 contexts and 6
    seeds; all words move the pictures somewhat."""
    chance = np.random.default_rng(seed)
    pictures = chance.normal(size=(1, 2, 6, 32)) + likeness * chance.normal(size=(5, 2, 6, 32)) + 2
    pictures[0] += shift * chance.normal(size=32)
    return pictures / np.linalg.norm(pictures, axis=-1, keepdims=True)


def judged(pictures: Any, first: tuple[float, ...] = (0.2, 0.2, 0.2), word: str = "zorbi") -> Any:
    tags = np.broadcast_to(np.array([0.2, 0.2, 0.2]), (*pictures.shape[:3], 3)).copy()
    tags[0] = first
    return reaction(word, pictures[0], pictures[1:], tags[0], tags[1:], TAGS)


@pytest.mark.parametrize("seed", range(20))
def test_a_word_that_moves_pictures_its_own_way_is_known_to_the_base(seed: int) -> None:
    found = judged(drawn(seed, 0.8))
    assert found.reacts and found.strength > 1.5 * found.usual and "reacts to zorbi already" in found.text
    assert found.remedy


@pytest.mark.parametrize("seed", range(20))
def test_a_word_that_does_no_more_than_made_up_ones_is_not(seed: int) -> None:
    found = judged(drawn(seed, 0.0))
    assert not found.reacts and "does not know zorbi" in found.text and not found.remedy


def test_the_tags_that_it_brings_are_named_most_first() -> None:
    found = judged(drawn(1, 0.8), first=(0.5, 0.9, 0.3))
    assert found.brings == [("green hair", 0.7), ("smile", 0.3)] and "green hair (+70%), smile (+30%)" in found.text


def test_a_weak_reaction_is_known_by_the_tag_of_the_same_name() -> None:
    pictures = drawn(1, 0.0)
    assert judged(pictures, (0.45, 0.2, 0.2), "Smile").reacts
    assert not judged(pictures, (0.45, 0.2, 0.2)).reacts  # that it smiles more is chance: nothing else speaks for it
    assert not judged(pictures, (0.3, 0.2, 0.2), "smile").reacts


def test_a_tag_that_some_made_up_word_brings_as_well_is_not_named() -> None:
    pictures = drawn(1, 0.8)
    tags = np.full((*pictures.shape[:3], 3), 0.1)
    tags[0, ..., 0], tags[3, ..., 0] = 0.6, 0.7
    assert reaction("zorbi", pictures[0], pictures[1:], tags[0], tags[1:], TAGS).brings == []
