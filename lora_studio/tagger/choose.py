"""From probabilities to tags. Pure functions on numbers; imports no torch."""

import numpy as np
from numpy.typing import ArrayLike

from lora_studio.tagger.config import TagConfig
from lora_studio.tagger.vocabulary import Vocabulary

Chosen = tuple[str, float, str]
"""Name, probability, category."""


def choose(probabilities: ArrayLike, vocabulary: Vocabulary, config: TagConfig) -> list[Chosen]:
    """(T,) probabilities of one picture -> the tags to write.

    A tag counts from its level on (`config.threshold`, or its own when that is 0). Excluded tags and skipped kinds are
    left out before the likeliest of a `one_of` kind is taken, so that an excluded tag never hides another one. Kinds
    come in the vocabulary's order, within a kind the surest first.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (len(vocabulary),):
        raise ValueError(f"{values.shape} probabilities for {len(vocabulary)} tags")
    levels = np.full(len(values), config.threshold) if config.threshold else vocabulary.levels
    excluded = {tag.strip().casefold() for tag in config.exclude}
    skipped = {category.casefold() for category in config.skip_categories}
    single = {category.casefold() for category in config.one_of}
    taken: set[str] = set()
    found: list[Chosen] = []
    for place in np.argsort(-values, kind="stable"):
        name, category = vocabulary.names[place], vocabulary.categories[place]
        kind = category.casefold()
        if values[place] < levels[place] or name.casefold() in excluded or kind in skipped:
            continue
        if kind in single:
            if kind in taken:
                continue
            taken.add(kind)
        found.append((name, round(float(values[place]), 4), category))
    order = {category: place for place, category in reversed(list(enumerate(vocabulary.categories)))}
    return sorted(found[: config.max_tags], key=lambda tag: (order[tag[2]], -tag[1]))
