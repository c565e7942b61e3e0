"""Two gauges, consistency and diversity, and a grade from A to F with what would raise it most.

Consistency: is it one subject, one style, one idea? Diversity: does the rest vary, so that it is not learned along?
A good set is high in both. The guide puts consistency first ("more valuable than variety").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_studio.core.project import Plan
from lora_studio.judge import layout
from lora_studio.judge.aspects import COLOURS, SUBJECTS
from lora_studio.judge.common import Finding, plural
from lora_studio.judge.coverage import BELIEVED, Aspect
from lora_studio.judge.facts import ImageFacts

Apart = tuple[NDArray[np.bool_], NDArray[np.float64], float]

# How near the embeddings of a set lie to each other (length of their mean, 1 when all are equal): from where on it
# counts for nothing, and for full. Measured with the starter's tagger on its generator's subjects: one character 0.78
# to 0.88, two characters mixed 2 to 1 0.57 to 0.67, strangers 0.34; one style 0.61, with a third of another 0.51; one
# concept on many people 0.46 to 0.61. Larger models put all pictures nearer, so there it says less; strangers among
# the pictures are found by comparison with the rest, which does not depend on the model.
NEARNESS = {"character": (0.35, 0.75), "style": (0.3, 0.58), "concept": (0.2, 0.45)}
SPREAD_APART = 0.45
"""Median distance of an embedding to its 5 nearest, from which on it counts as full variety: one character in other
clothes before other backgrounds lies at 0.47 to 0.59, one picture slightly moved again and again at 0.09 to 0.14."""
SPREAD_COLOURS = 40.0
"""The same for the mean difference of the colour grids in levels: characters 26 to 36, styles and concepts 50 to 59,
one pose 3 to 8."""
ENOUGH = 4
WEIGHTS = (3.0, 3.0, 1.0)
"""Of aspects, embeddings and colours in the diversity."""
ASPECTS_WEIGHT = WEIGHTS[0] / sum(WEIGHTS)
IDENTITY = (0.5, 0.95)
"""Share of the pictures with the commonest hair, eyes or skin: half is no character, a tagger's slip is allowed."""
STRANGERS = 3.0
FAULTS = 2.5
"""So many times its share a fault weighs: with a third of strangers, or two fifths that should go, nothing is left."""
PARTS = {"count": 0.26, "clean": 0.2, "consistency": 0.33, "diversity": 0.21}
"""Exponents of a product, so that no part can be made up for by the others: a thousand clean pictures of strangers are
no set. Chosen so that the sample projects without their planted faults get 95 to 100 points (with them 84 to 92), a set
with a third of another character a C, one of strangers only an F (docs/curation.md has the table)."""
LETTERS = (("A", 88), ("B", 76), ("C", 62), ("D", 50), ("E", 30), ("F", 0))
WORDS = {
    "A": "An excellent set.",
    "B": "A good set.",
    "C": "A usable set with gaps.",
    "D": "A weak set: the LoRA will show its faults.",
    "E": "A poor set.",
    "F": "Not a set to train on yet.",
}


@dataclass(frozen=True)
class Gauge:
    """0 (none) to 1 (full), in words, and what it was worked out from."""

    value: float
    text: str
    why: str
    against: tuple[int, ...] = ()
    """Ids of the pictures that lower it most."""


@dataclass(frozen=True)
class Grade:
    """A to F, and at most three things to do next, those first that would raise it most."""

    letter: str
    points: int
    """Of 100."""
    text: str
    next: tuple[Finding, ...]


def consistency(images: list[ImageFacts], plan: Plan, apart: Apart | None) -> Gauge | None:
    """How much it is one thing; None when nothing is known that could tell. `apart` is `layout.outliers` of those
    pictures that have an embedding."""
    if len(images) < ENOUGH:
        return None
    parts, why, against = [], [], set()
    known = [image for image in images if image.embedding is not None]
    if apart and len(known) >= ENOUGH:
        low, high = NEARNESS[plan.kind]
        stack = np.stack([image.embedding for image in known if image.embedding is not None])
        near = float(np.linalg.norm(stack.mean(axis=0)))
        against |= {image.id for image, far in zip(known, apart[0], strict=True) if far}
        strangers = len(against)
        parts += [_scaled(near, low, high), max(0.0, 1 - STRANGERS * strangers / len(known))]
        why.append(f"the pictures lie {near:.2f} of 1 together in the auto-tagger's eyes")
        why.append(f"{plural(strangers, 'picture')} {'stands' if strangers == 1 else 'stand'} apart")
    if plan.kind == "character":
        for thing in ("hair", "eyes", "skin"):
            share, name, others = _commonest(images, thing)
            if name:
                against |= others
                parts.append(_scaled(share, *IDENTITY))
                why.append(f"{name} in {round(share * 100)} %")
    if not parts:
        return None
    value = round(min(parts), 2)  # as consistent as the weakest sign of it
    what = {"character": "one character", "style": "one style", "concept": "one idea"}[plan.kind]
    text = (
        f"All of it looks like {what}." if value >= 0.75
        else f"Most of it looks like {what}, with strangers among it." if value >= 0.45
        else f"This does not look like {what}."
    )  # fmt: skip
    return Gauge(value, text, _sentence(why), tuple(sorted(against)))


def diversity(images: list[ImageFacts], plan: Plan, aspects: Sequence[Aspect], apart: Apart | None) -> Gauge | None:
    """How much of what should vary does; None for fewer than 4 pictures. `apart` as for `consistency`."""
    if len(images) < ENOUGH:
        return None
    parts, weights, why = [], [], []
    judged = [(aspect, fullness(aspect, plan)) for aspect in aspects if aspect.judged and aspect.values]
    if judged:
        parts.append(float(np.mean([full for _, full in judged])))
        weights.append(WEIGHTS[0])
        poor = [aspect.name for aspect, full in judged if full < 0.5]
        why.append(f"{', '.join(poor)} hardly varied" if poor else "all known aspects vary")
    if apart and len(apart[1]) >= layout.ENOUGH_FOR_OUTLIERS:
        usual = float(np.median(apart[1]))
        parts.append(_scaled(usual, 0.1, SPREAD_APART))
        weights.append(WEIGHTS[1])
        why.append(f"a picture is {usual:.2f} away from those most like it")
    levels = _colour_spread(images)
    parts.append(_scaled(levels, 5, SPREAD_COLOURS))
    weights.append(WEIGHTS[2])
    why.append(f"their colours differ by {levels:.0f} of 255 levels")
    value = round(float(np.average(parts, weights=weights)), 2)
    text = (
        "It varies well: the subject can be told from the rest." if value >= 0.7
        else "Some things vary, others are always the same." if value >= 0.4
        else "The pictures are much alike: what they share will be learned along with the subject."
    )  # fmt: skip
    return Gauge(value, text, _sentence(why))


def grade(
    total: int, good: int, low: int, flagged: Sequence[Finding], gauges: dict[str, Gauge | None],
    aspects: Sequence[Aspect], plan: Plan, contradictions: Sequence[Finding] = (),
) -> Grade:  # fmt: skip
    """The grade of a set with `good` usable pictures of `total` where `low` are advised, and what to do next.

    `flagged` are findings about pictures that should go; `contradictions` those about what the plan forbids. A gauge
    that is not known takes no part.
    """
    wrong = len({image for finding in contradictions for image in finding.images})
    shares = {"count": min(1.0, good / low), "clean": max(0.0, 1 - FAULTS * (total - good) / max(1, total))}
    shares |= {name: gauge.value for name, gauge in gauges.items() if gauge is not None}
    if "consistency" in shares:
        shares["consistency"] *= 1 - wrong / max(1, total)
    points = _points(shares)
    letter = next(letter for letter, least in LETTERS if points >= least) if good else "F"
    if good < low / 3:
        letter = max(letter, "D")  # too few is no usable set, however fine

    def gain(part: str, value: float) -> float:
        return _points({**shares, part: min(1.0, max(value, shares[part]))}) - points

    each = 1 / max(1, total)
    steps = [(gain("clean", shares["clean"] + FAULTS * each * len(finding.images)), finding) for finding in flagged]
    if "consistency" in shares:
        for finding in contradictions:
            left = max(1, total - wrong)
            steps.append((gain("consistency", shares["consistency"] * (1 + len(finding.images) / left)), finding))
    gauge = gauges.get("consistency")
    if gauge is not None and gauge.against and not contradictions:
        text = f"{plural(len(gauge.against), 'picture')} may not show the same {plan.kind} as the others."
        remedy = "Look at each, on the map too, and reject what does not belong."
        steps.append((gain("consistency", 1.0), Finding("warn", text, remedy, gauge.against)))
    if good < low:
        text = f"Add {plural(low - good, 'more good picture')}."
        steps.append((gain("count", 1.0), Finding("info", text, f"{low} or more are advised.")))
    judged = [aspect for aspect in aspects if aspect.judged and aspect.values]
    for aspect in judged:
        if aspect.level != "good" and "diversity" in shares:
            more = ASPECTS_WEIGHT * (1 - fullness(aspect, plan)) / len(judged)
            steps.append(
                (gain("diversity", shares["diversity"] + more), Finding(aspect.level, aspect.text, aspect.remedy))
            )
    ordered = sorted(steps, key=lambda step: (-round(step[0], 6), step[1].text))
    best = tuple(
        Finding(step.level, step.text, step.remedy, step.images, {**step.evidence, "points": round(worth, 1)})
        for worth, step in ordered[:3]
        if worth >= 0.5
    )
    return Grade(letter, round(points), WORDS[letter], best)


def _points(shares: Mapping[str, float]) -> float:
    """0 to 100: the shares' weighted geometric mean, none taken below 0.02 so that all still count."""
    weight = sum(PARTS[name] for name in shares)
    return 100 * float(np.exp(sum(PARTS[name] * np.log(max(0.02, share)) for name, share in shares.items()) / weight))


def fullness(aspect: Aspect, plan: Plan) -> float:
    """0 to 1: the effective number of values (exponential of their entropy) over the number that is wanted."""
    subject = next(one for one in SUBJECTS[plan.kind] if one.name == aspect.name)
    counts = np.array([len(value.ids) for value in aspect.values], float)
    share = counts / counts.sum()
    wanted = max(len(subject.expected), subject.least)
    return min(1.0, (float(np.exp(-(share * np.log(share)).sum())) - 1) / max(1, wanted - 1))


def _scaled(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))


def _commonest(images: list[ImageFacts], thing: str) -> tuple[float, str, set[int]]:
    """Share and name of the commonest colour of hair, eyes or skin, and the pictures with another; no name when too
    little is known of it."""
    names = [f"{colour} {thing}" for colour in COLOURS] if thing != "skin" else ["light skin", "tan skin", "dark skin"]
    shown: dict[str, set[int]] = {}
    for image in images:
        said = [tag.casefold() for tag in image.tags if tag.casefold() in names]
        scores = image.scores or {}
        guessed = [tag for tag in names if scores.get(tag, 0) >= BELIEVED]
        for tag in (said or sorted(guessed, key=lambda tag: -scores[tag]))[:1]:
            shown.setdefault(tag, set()).add(image.id)
    known = sum(len(ids) for ids in shown.values())
    if known < max(ENOUGH, len(images) / 2):
        return 0.0, "", set()
    name = max(sorted(shown), key=lambda tag: len(shown[tag]))
    return len(shown[name]) / known, name, {image for tag, ids in shown.items() if tag != name for image in ids}


def _colour_spread(images: list[ImageFacts]) -> float:
    """Mean difference of the colour grids from their mean picture, in levels, times the square root of two: about the
    difference of two pictures drawn at random."""
    grids = np.stack([np.frombuffer(image.signature, np.uint8) for image in images]).astype(np.float32)
    return float(np.abs(grids - grids.mean(axis=0)).mean() * np.sqrt(2))


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
