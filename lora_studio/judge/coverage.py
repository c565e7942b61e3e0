"""What the set shows and what it lacks, aspect by aspect, held against the plan.

It is seen from the tags of the captions; where a caption says nothing of an aspect, from the auto-tagger's guesses.
Pictures of which neither says anything are left out of the count, and an aspect that nobody says anything of is not
judged at all.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lora_studio.core.project import Plan
from lora_studio.judge.aspects import COLOURS, SIGNS_OF_A_PERSON, SUBJECTS, Subject
from lora_studio.judge.captions import EXCLUSIVE, ONE_COLOUR
from lora_studio.judge.common import Finding, Level, plural
from lora_studio.judge.facts import ImageFacts

BELIEVED = 0.5
"""Probability from which the auto-tagger's guess counts."""
ENOUGH = 6
"""With fewer pictures, shares say nothing."""
TIED = 0.7
"""From this share on, what the pictures have in common is learned along with the subject. The guide's example of a set
that teaches the jacket is 14 of 18 (0.78); a tag is held to be tied for certain at 0.8 (`judge.captions`)."""
SEEN = 1 / 3
"""An aspect is judged when something is known of this share of the pictures."""
CLOSE, NEAR = 0.35, 0.12
"""A face as high as this share of the picture makes it a close-up; as this, a picture of the upper body."""


@dataclass(frozen=True)
class Value:
    """One value of an aspect and the pictures that show it."""

    name: str
    ids: tuple[int, ...]
    share: float
    """Of the pictures of which this aspect is known."""


@dataclass(frozen=True)
class Aspect:
    """How far one aspect is covered."""

    name: str
    values: tuple[Value, ...]
    """The most frequent first."""
    missing: tuple[str, ...]
    text: str
    level: Level
    remedy: str = ""
    judged: bool = True
    """False when too little is known of it."""


def coverage(images: list[ImageFacts], plan: Plan) -> tuple[Aspect, ...]:
    """The aspects that matter for the plan's kind, each with what is there and what is missing."""
    return tuple(_aspect(subject, images, plan) for subject in SUBJECTS[plan.kind])


def against_plan(images: list[ImageFacts], plan: Plan) -> list[Finding]:
    """What contradicts the plan's own words: what should be constant and is not, what must not be there and is."""
    found = [_contradicted(word, images) for word in _words(plan.defining)]
    found += [_avoided(word, images) for word in _words(plan.avoid)]
    return [finding for finding in found if finding is not None]


def _words(words: Iterable[str]) -> list[str]:
    return [word.strip().casefold() for word in words if word.strip()]


def _aspect(subject: Subject, images: list[ImageFacts], plan: Plan) -> Aspect:
    shown: dict[str, list[int]] = {}
    known = 0
    for image in images:
        values = _values(subject, image)
        known += bool(values)
        for value in values:
            shown.setdefault(value, []).append(image.id)
    values = tuple(
        Value(name, tuple(sorted(ids)), round(len(ids) / known, 3))
        for name, ids in sorted(shown.items(), key=lambda item: (-len(item[1]), item[0]))
    )
    if known < max(1, SEEN * len(images)):
        text = f"Nothing is known of the {subject.name}: no caption says it and the auto-tagger does not see it."
        return Aspect(subject.name, values, (), text, "info", "Put it in the captions.", judged=False)
    missing = tuple(value for value in subject.expected if value not in shown)
    tied = _tied(subject, values, known, plan)
    if tied:
        level: Level = "warn" if _matters(subject, plan) else "info"
        return Aspect(subject.name, values, missing, " ".join([tied, *_lacks(missing)]), level, subject.add)
    if missing:
        return Aspect(subject.name, values, missing, " ".join(_lacks(missing)), "info", subject.add)
    if known >= ENOUGH and len(values) < subject.least:
        text = f"Only {plural(len(values), 'kind')} of {subject.name}: {_listed(values)}."
        return Aspect(subject.name, values, missing, text, "info", subject.add)
    text = f"{subject.name.capitalize()} {'vary' if subject.name == 'subjects' else 'varies'}: {_listed(values)}."
    return Aspect(subject.name, values, missing, text, "good")


def _lacks(missing: tuple[str, ...]) -> list[str]:
    names = [name.removeprefix("a ").removeprefix("an ") for name in missing]
    if not names:
        return []
    *first, last = [f"no {name}" for name in names]
    text = f"{', '.join(first)} and {last}." if first else f"{last}."
    return [text[:1].upper() + text[1:]]


def _listed(values: tuple[Value, ...], most: int = 4) -> str:
    named = ", ".join(f"{value.name} ({len(value.ids)})" for value in values[:most])
    return named + (f" and {len(values) - most} more" if len(values) > most else "")


def _matters(subject: Subject, plan: Plan) -> bool:
    """The plan says that it varies, or it is what a LoRA takes on most easily."""
    varies = {part for word in _words(plan.varies) for part in (word, *word.split())}
    return bool(varies & set(subject.words)) or subject.name in ("background", "outfit", "subjects", "subject")


def _tied(subject: Subject, values: tuple[Value, ...], known: int, plan: Plan) -> str:
    """The sentence on a value that nearly all share; empty when there is none, or the plan wants it so."""
    if known < ENOUGH or not values or values[0].share < TIED:
        return ""
    name, count = values[0].name, len(values[0].ids)
    if name in _words(plan.defining) or (subject.implied == name and subject.expected):
        return ""
    thing = name.split()[-1]
    learned = subject.learned.format(kind=plan.kind, thing=thing)
    how = {
        "outfit": f"in the same {thing}" if name in _words([thing]) else f"in a {name}",
        "background": f"with {name}" if name.endswith("background") else f"in one place ({name})",
        "subjects": f"show {name}",
        "subject": f"show {name}",
    }.get(subject.name, f"have one {subject.name} ({name})")
    return f"{count} of {known} {how}: {learned}."


def _values(subject: Subject, image: ImageFacts) -> list[str]:
    """What the picture shows of the aspect; one value but for the caption's own words."""
    if subject.name == "palette":
        return [_palette(image)]
    tags = [tag.casefold() for tag in image.tags]
    said = _match(subject, tags)
    if said:
        return said
    if subject.name == "framing" and image.faces:
        return [_by_face(image)]
    scores = sorted((image.scores or {}).items(), key=lambda item: (-item[1], item[0]))
    guessed = _match(subject, [tag.casefold() for tag, score in scores if score >= BELIEVED])[:1]
    if guessed:
        return guessed
    seen = [*tags, *(tag for tag, score in scores if score >= BELIEVED)]
    if subject.name == "subjects" and any(tag.endswith(SIGNS_OF_A_PERSON) for tag in seen):
        return ["a person"]
    return [subject.implied] if subject.implied and tags else []


def _match(subject: Subject, tags: list[str]) -> list[str]:
    named = [(place, name if name != "*" else tag) for tag in tags for place, name in subject.named_by(tag)]
    return list(dict.fromkeys(name for _, name in sorted(named, key=lambda one: one[0])))


def _by_face(image: ImageFacts) -> str:
    height = max(bottom - top for _, top, _, bottom in image.faces or ())
    return "close-up" if height >= CLOSE else "upper body" if height >= NEAR else "full body"


def _palette(image: ImageFacts) -> str:
    """The picture's colours in one word, from its colour grid: by brightness and saturation, then by hue."""
    grid = np.frombuffer(image.signature, np.uint8).reshape(64, 3).astype(float)
    brightness, chroma = grid.mean(), (grid.max(axis=1) - grid.min(axis=1)).mean()
    if chroma < 20:
        return "grey tones"
    if brightness < 60:
        return "dark colours"
    red, green, blue = (grid * (grid.max(axis=1) - grid.min(axis=1))[:, None]).sum(axis=0)
    strongest = max(("reds and oranges", red - (green + blue) / 2), ("greens", green - (red + blue) / 2),
                    ("blues", blue - (red + green) / 2), key=lambda one: one[1])  # fmt: skip
    return strongest[0]


def _contradicted(word: str, images: list[ImageFacts]) -> Finding | None:
    """Pictures that show another value of a thing the plan calls constant: brown hair where it says green hair."""
    others = _rivals(word)
    if not others:
        return None
    shown: dict[str, list[int]] = {}
    for image in images:
        tags = {tag.casefold() for tag in image.tags}
        seen = tags & ({word} | others)
        if not seen and image.scores:
            best = max(({word} | others) & set(image.scores), key=lambda tag: (image.scores or {})[tag], default="")
            seen = {best} if best and image.scores[best] >= BELIEVED else set()
        if seen and word not in seen:
            shown.setdefault(min(seen), []).append(image.id)
    if not shown:
        return None
    ids = tuple(sorted({one for found in shown.values() for one in found}))
    names = " or ".join(name for name, _ in Counter({name: len(found) for name, found in shown.items()}).most_common(3))
    show = "shows" if len(ids) == 1 else "show"
    text = f"{plural(len(ids), 'picture')} {show} {names}, but the plan says {word} is what makes the subject."
    return Finding("warn", text, "Look at them: reject another subject, or change the plan.", ids, {"count": len(ids)})


def _rivals(word: str) -> set[str]:
    """Tags that cannot be true where `word` is: the same thing in another colour, another of an exclusive group.

    Shapes of hair are left out: auto-taggers confuse them on a subject they never saw.
    """
    colour, _, thing = word.partition(" ")
    if colour in COLOURS and thing in ONE_COLOUR:
        return {f"{other} {thing}" for other in COLOURS if other != colour}
    return next((set(group) - {word} for group in EXCLUSIVE if word in group and " hair" not in group[0]), set())


def _avoided(word: str, images: list[ImageFacts]) -> Finding | None:
    ids = tuple(
        sorted(image.id for image in images if _says(image, word) or (image.scores or {}).get(word, 0) >= BELIEVED)
    )
    if not ids:
        return None
    show = "shows" if len(ids) == 1 else "show"
    text = f"{plural(len(ids), 'picture')} {show} {word}, which the plan says must not be learned."
    return Finding("warn", text, "Reject or crop them, or tag it in each so that it is not tied to the trigger.", ids,
                   {"count": len(ids)})  # fmt: skip


def _says(image: ImageFacts, word: str) -> bool:
    return word in {tag.casefold() for tag in image.tags}
