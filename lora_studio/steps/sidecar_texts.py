"""What the files of captions beside the pictures are called, and what stands in them."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from lora_studio.core import captions
from lora_studio.core.project import Image, Plan
from lora_studio.steps.sources.datasets import Said

RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}
"""Names that Windows keeps for itself."""
_FORBIDDEN = re.compile('[<>:"|?*\0-\x1f]')
MAX_NAME = 120
"""Bytes; systems take 255, and an ending is added."""


class Texts(NamedTuple):
    """The two texts of one picture."""

    caption: str
    prose: str


def names(images: Iterable[Image]) -> dict[int, str]:
    """Where each picture's text lies in an export, without ending: its name, made safe for every system. Pictures that
    differ in nothing but the ending keep it: `a.png` and `a.jpg` have `a.png.txt` and `a.jpg.txt`."""
    whole = {image.id: safe(image.name or f"picture {image.id}") for image in images}
    stems = {image_id: stem(name) for image_id, name in whole.items()}
    found: dict[int, str] = {}
    for each in (stems, whole):
        taken = Counter(map(folded, each.values())) + Counter(map(folded, found.values()))
        found |= {one: name for one, name in each.items() if one not in found and taken[folded(name)] == 1}
    used = set(map(folded, found.values()))
    for one in sorted(whole.keys() - found.keys()):
        name = f"{stems[one]}-{one}"
        while folded(name) in used:
            name += "-"
        found[one] = name
        used.add(folded(name))
    return found


def file_names(images: Sequence[Image], paths: Mapping[int, str]) -> dict[int, str]:
    """What a list calls each picture: its name made safe, with a number where several have the same. `paths` are the
    `names`."""
    whole = {image.id: safe(image.name or f"picture {image.id}") for image in images}
    count = Counter(map(folded, whole.values()))
    return {
        one: name if count[folded(name)] == 1 else f"{paths[one]}{PurePosixPath(name).suffix}"
        for one, name in whole.items()
    }


def safe(name: str) -> str:
    """A relative path that every system takes."""
    parts = []
    for part in name.replace("\\", "/").split("/"):
        letters = _FORBIDDEN.sub("_", part)
        while len(letters.encode("utf-8", "replace")) > MAX_NAME:
            begin = stem(letters)
            letters = begin[:-1] + letters[len(begin) :] if len(begin) > 1 else letters[:-1]
        letters = letters.strip(". ") if letters.strip(". ") else ""
        parts.append(f"_{letters}" if letters.partition(".")[0].casefold() in RESERVED else letters)
    return "/".join(part for part in parts if part) or "picture"


def stem(name: str) -> str:
    """The name without its ending."""
    return name[: len(name) - len(PurePosixPath(name).suffix)]


def folded(name: str) -> str:
    """The same for names that some system takes for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def shown(texts: Texts, plan: Plan) -> str:
    """What other programs are given: what the base reads by the plan, with the trigger first; empty without a text."""
    prose, caption = said(texts, plan)
    return captions.joined(caption, prose)


def with_trigger(texts: Texts, plan: Plan) -> Texts:
    """The texts with the trigger first, in the tags where there are some."""
    caption = texts.caption
    if caption:
        if plan.trigger and caption != plan.trigger and not caption.startswith(f"{plan.trigger}, "):
            caption = captions.join(captions.with_trigger_first(captions.split(caption), plan.trigger))
        return Texts(caption, texts.prose)
    return Texts("", captions.prose_with_trigger(texts.prose, plan.trigger) if texts.prose else "")


def said(texts: Texts, plan: Plan) -> Said:
    """What a list with a place for each kind of text is given."""
    caption = texts.caption if plan.captions != "prose" else ""
    prose = texts.prose if plan.captions != "tags" else ""
    led = with_trigger(Texts(caption, prose), plan)
    return Said(led.prose, led.caption)


def mark(texts: Texts | Said) -> str:
    """Of both texts, to tell later whether they have changed."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def taken_over(found: Said, now: Texts, plan: Plan) -> Texts:
    """The picture's texts as a file has them. What it does not speak of stays, and so does a trigger that is there."""
    led, text = with_trigger(now, plan), found.text.strip()
    if found.tags:
        caption, prose = captions.join(captions.split(found.tags)), text or led.prose
    elif text == shown(now, plan):
        return now
    else:
        caption, prose = captions.parted(text, plan.captions, led.caption, led.prose)
    if caption == led.caption:
        caption = now.caption
    elif caption and plan.trigger.casefold() in map(str.casefold, captions.split(now.caption)):
        caption = captions.join(captions.with_trigger_first(captions.split(caption), plan.trigger))
    return Texts(caption, now.prose if prose == led.prose else prose)
