"""From probabilities to tags. Pure functions on numbers; imports no torch."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lora_studio.tagger.config import TagConfig
from lora_studio.tagger.vocabulary import Vocabulary

Chosen = tuple[str, float, str]
"""Name, probability, category."""
RATING, CHARACTER = "rating", "character"
"""Kinds of booru tags that are treated in a way of their own."""


def choose(probabilities: ArrayLike, vocabulary: Vocabulary, config: TagConfig) -> list[Chosen]:
    """(T,) probabilities of one picture -> the tags to write.

    A tag counts from its level on (see `levels`). Excluded tags and skipped kinds are left out before the likeliest of
    a `one_of` kind is taken, so that an excluded tag never hides another one. Kinds come in the vocabulary's order,
    within a kind the surest first; the rating, where it is wanted, is the likeliest one and comes last.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (len(vocabulary),):
        raise ValueError(f"{values.shape} probabilities for {len(vocabulary)} tags")
    excluded = {plain(tag) for tag in config.exclude}
    skipped = {category.casefold() for category in config.skip_categories} | (set() if config.rating else {RATING})
    single = {category.casefold() for category in config.one_of} | {RATING}
    taken: set[str] = set()
    found: list[Chosen] = []
    likely = np.flatnonzero(values >= levels(vocabulary, config))  # of 10,000 tags some dozens
    for place in likely[np.argsort(-values[likely], kind="stable")]:
        name, category = vocabulary.names[place], vocabulary.categories[place]
        kind = category.casefold()
        if plain(name) in excluded or kind in skipped:
            continue
        if kind in single:
            if kind in taken:
                continue
            taken.add(kind)
        written = name.replace(" ", "_") if config.underscores else name
        found.append((written, round(float(values[place]), 4), category))
    found = found[: config.max_tags]
    kinds = {category for _, _, category in found}
    order = {category: vocabulary.categories.index(category) for category in kinds}
    return sorted(found, key=lambda tag: (tag[2].casefold() == RATING, order[tag[2]], -tag[1]))


def levels(vocabulary: Vocabulary, config: TagConfig) -> NDArray[np.float64]:
    """(T,) the probability from which each tag is believed: `config.threshold`, for names of characters
    `config.character_threshold`, and each tag's own level where these are 0; of the ratings none has one."""
    found = vocabulary.levels.copy()
    if config.threshold:
        found[vocabulary.kinds != CHARACTER] = config.threshold
    if config.character_threshold:
        found[vocabulary.kinds == CHARACTER] = config.character_threshold
    found[vocabulary.kinds == RATING] = 0
    return found


def plain(tag: str) -> str:
    """A tag as it is compared: small letters, blanks in place of underscores."""
    return tag.strip().casefold().replace("_", " ")
