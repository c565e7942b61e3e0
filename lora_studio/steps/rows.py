"""What a filter can ask of a picture, and what pictures can be sorted by: each word with its meaning and its answer."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lora_studio.core import captions
from lora_studio.core.project import Image, Project
from lora_studio.judge import dataset
from lora_studio.judge.facts import Flag, ImageFacts
from lora_studio.steps import looking


@dataclass(frozen=True)
class Row:
    """A picture with all that is known of it."""

    image: Image
    facts: ImageFacts
    flags: Sequence[Flag] = ()
    usual_sharpness: float = 0.0
    """Median of the set's."""
    trigger: str = ""
    """The project's trigger word."""
    tokens: Callable[[], Mapping[int, Sequence[int]]] = dict
    """Tokens of each caption, for each text encoder, by picture; counted when first asked for."""


def rows(
    project: Project,
    flags: Mapping[int, Sequence[Flag]] | None = None,
    images: Sequence[Image] | None = None,
    facts: Iterable[ImageFacts] | None = None,
    tokens: Callable[[], Mapping[int, Sequence[int]]] | None = None,
) -> list[Row]:
    """All pictures with what is known of each; `images`, `facts` and `tokens` are the project's, where at hand."""
    images = project.images() if images is None else images
    facts = looking.facts(project, images) if facts is None else facts
    usual = float(np.median([image.sharpness for image in images])) if images else 0.0
    trigger, counted = project.plan.trigger, cache(tokens or (lambda: _tokens(project, images)))
    return [
        Row(image, fact, (flags or {}).get(image.id, ()), usual, trigger, counted)
        for image, fact in zip(images, facts, strict=True)
    ]


def _tokens(project: Project, images: Iterable[Image]) -> Mapping[int, Sequence[int]]:
    from lora_studio.steps import tokens  # it takes the tokenizers along, which few filters need

    return tokens.counts(project, [image.id for image in images])


def _blur(row: Row) -> float:
    if row.usual_sharpness <= 0:
        return 0.0
    return max(0.0, 1 - row.image.sharpness / row.usual_sharpness)


def _faces(row: Row) -> float | None:
    return None if row.facts.faces is None else len(row.facts.faces)


def _face(row: Row) -> float | None:
    """Share of the picture's area under its largest face."""
    if row.facts.faces is None:
        return None
    return max(((right - left) * (bottom - top) for left, top, right, bottom in row.facts.faces), default=0.0)


def _has(row: Row) -> str:
    trigger = row.trigger and captions.has_word(f"{row.image.caption}\n{row.image.prose}", row.trigger)
    there = {
        "trigger": bool(trigger),
        "tags": bool(row.facts.tags),
        "prose": bool(row.image.prose),
        "mask": bool(row.image.mask),
        "crop": row.image.crops != (None,),
    }
    return "\n".join(name for name in HAS if there[name])


def _origin(key: str) -> Callable[[Row], str]:
    return lambda row: str(json.loads(row.image.origin).get(key, "")) if row.image.origin else ""


def _decided(decision: str) -> Callable[[Row], bool]:
    return lambda row: row.image.decision == decision


HAS = ("trigger", "tags", "prose", "mask", "crop")
NUMBERS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "blur": ("0 as sharp as the usual picture of the set, 1 without any edge", _blur),
    "sharpness": ("as measured; higher is sharper, to be compared within a set", lambda row: row.image.sharpness),
    "width": ("pixels", lambda row: row.image.width),
    "height": ("pixels", lambda row: row.image.height),
    "side": ("side of the square with its area, pixels", lambda row: row.facts.side),
    "pixels": ("millions of pixels", lambda row: row.image.width * row.image.height / 1e6),
    "aspect": ("width divided by height; 3:2 can be written so", lambda row: row.image.width / row.image.height),
    "size": ("of the file in MB; 300kb can be written so", lambda row: row.image.size / 1e6),
    "faces": ("how many were found", _faces),
    "face": ("share of the picture under its largest face", _face),
    "lettering": ("share of the picture under text or a watermark", lambda row: row.facts.lettering),
    "aesthetic": ("1 to 10, where an aesthetic head is present", lambda row: row.facts.aesthetic),
    "tags": ("how many tags its caption has", lambda row: len(row.facts.tags)),
    "count": ("how many tags its caption has", lambda row: len(row.facts.tags)),
    "tokens": (
        "of its caption, in the text encoder that makes most of them",
        lambda row: max(row.tokens().get(row.image.id, ()), default=None),
    ),
    "crops": ("how many parts of it are trained on", lambda row: len(row.image.crops)),
    "repeats": ("how often it comes up in an epoch", lambda row: row.image.repeats),
    "flags": ("how many things are wrong with it", lambda row: len(row.flags)),
    "id": ("its number", lambda row: row.image.id),
    "added": ("time of the import, Unix seconds", lambda row: row.image.added),
}
TEXTS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "name": ("its name", lambda row: row.image.name),
    "caption": ("its tags as they are written", lambda row: row.image.caption),
    "prose": ("its description in sentences", lambda row: row.image.prose),
    "has": (f"what it has: {', '.join(HAS)}", _has),
    "tag": ("one of its tags as a whole; hat* for all that begin so", lambda row: "\n".join(row.facts.tags)),
    "flag": ("what is wrong with it, e.g. flag:blur*", lambda row: "\n".join(flag.name for flag in row.flags)),
    "decision": ("new, keep, maybe or reject", lambda row: row.image.decision),
    "reason": ("why it was decided so", lambda row: row.image.reason),
    "source": ("folder, archive, address or site it is from", lambda row: row.image.source),
    "url": ("its address", lambda row: row.image.url),
    "author": ("who made it", lambda row: row.image.author),
    "licence": ("by what right it is used", lambda row: row.image.licence),
    "consent": ("the note on consent", lambda row: row.image.consent),
    "site": ("the site it is from", _origin("site")),
    "rating": ("what its site rated it", _origin("rating")),
}
STATES: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "new": ("nobody has decided yet", _decided("new")),
    "keep": ("kept", _decided("keep")),
    "kept": ("kept", _decided("keep")),
    "maybe": ("set aside", _decided("maybe")),
    "reject": ("rejected", _decided("reject")),
    "rejected": ("rejected", _decided("reject")),
    "used": ("will be trained on", lambda row: row.image.used),
    "cropped": ("only parts of it are trained on", lambda row: row.image.crops != (None,)),
    "masked": ("has a mask", lambda row: bool(row.image.mask)),
    "captioned": ("has tags or sentences", lambda row: bool(row.image.caption or row.image.prose)),
    "untagged": ("has no tags", lambda row: not row.facts.tags),
    "flagged": ("something is wrong with it", lambda row: bool(row.flags)),
    "looked": ("was looked at by the tagger", lambda row: row.facts.embedding is not None),
    "wide": ("wider than high", lambda row: row.image.width > row.image.height),
    "tall": ("higher than wide", lambda row: row.image.height > row.image.width),
}
FLAGS: dict[str, str] = {
    "dark": "nothing in it is light",
    "bright": "nothing in it is dark",
    "flat": "little between its lightest and its darkest",
    "blocky": "squares of JPEG show",
    "borders": "bars or a frame around it",
    "lettering": "text or a watermark in it",
    "no_face": "no face where most have one",
    "many_faces": "several faces",
    "small_face": "a face too small to learn from",
    "low_aesthetic": "low by the aesthetic head",
    **{name: what for name, (what, _) in dataset.ABOUT.items()},
}
"""What the judge may find (judge/flags.py, judge/dataset.py)."""
