"""Does a base react to a word before any training? Pictures drawn with it against those drawn with made-up words."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
REACTS = 1.5  # times the strongest made-up word; see below
RISE = 0.2  # of a tag's probability, on the mean of all pictures
SHOWN = 5  # tags that are named


@dataclass(frozen=True)
class Reaction:
    """What a word does to the pictures of a base."""

    word: str
    reacts: bool
    strength: float
    """How far the word moves the pictures in a direction of its own (0 to 2, of embeddings of length 1)."""
    usual: float
    """The same of the made-up word that moves them most."""
    brings: list[tuple[str, float]] = field(default_factory=list)
    """Tags that come up more with the word than with made-up words, and by how much (probability), most first."""
    text: str = ""
    remedy: str = ""


def reaction(
    word: str, named: Floats, made_up: Floats, named_tags: Floats, made_up_tags: Floats, tags: Sequence[str]
) -> Reaction:
    """Compare pictures with the word to those with made-up words.

    `named` (C, S, D): embeddings of C contexts and S seeds; `made_up` (K, C, S, D) the same of K >= 3 words. The tag
    probabilities alike, with T `tags` in place of D.

    Any new word moves the pictures, so the mean of the made-up ones is what is compared with; each of them is compared
    with the others in the same way, and shows how far a word without meaning goes. Measured on the starter (2 contexts,
    8 seeds, 4 made-up words): `green hair` 3.1 times their mean and 2.2 times the strongest, zorbi, mikka and eyepatch
    (which it never met) 0.4 to 0.9 times the strongest. A short word that the base knows but hardly follows can stay
    below: the tags that come up tell such a one.
    """
    count = len(made_up)
    own = _apart(named, made_up)
    others = [_apart(made_up[one], np.delete(made_up, one, axis=0)) for one in range(count)]
    usual = max(others)
    rises = named_tags.mean(axis=(0, 1)) - made_up_tags.mean(axis=(0, 1, 2))
    order = np.argsort(-rises)
    highest = made_up_tags.mean(axis=(1, 2)).max(axis=0)  # what one made-up word brings by chance
    sure = (rises >= RISE) & (named_tags.mean(axis=(0, 1)) > highest)
    brings = [(str(tags[one]), round(float(rises[one]), 3)) for one in order if sure[one]][:SHOWN]
    meant = [tag for tag, _ in brings if tag.casefold() in word.casefold() or word.casefold() in tag.casefold()]
    reacts = own > REACTS * usual or bool(meant)
    return Reaction(word, reacts, round(own, 4), round(usual, 4), brings, *_words(word, reacts, own, usual, brings))


def _apart(named: Floats, made_up: Floats) -> float:
    """Length of the mean way from the made-up words' pictures to the word's, on the mean of the contexts."""
    shift = (named - made_up.mean(axis=0)).mean(axis=1)
    return float(np.linalg.norm(shift, axis=-1).mean())


def _words(word: str, reacts: bool, own: float, usual: float, brings: list[tuple[str, float]]) -> tuple[str, str]:
    times = own / usual if usual else 0.0
    drawn = ", ".join(f"{tag} (+{rise:.0%})" for tag, rise in brings)
    if reacts:
        text = f"The base reacts to {word} already: it moves the pictures {times:.1f} times as far as made-up words do"
        text += f", and brings {drawn}." if drawn else "."
        return text, "Choose a word that it does not know, unless you want to build on what it draws."
    return f"The base does not know {word}: it does no more to the pictures than made-up words do.", ""
