"""What the captions say as a whole, in numbers: each tag, which stand together, of what they speak."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_studio.core import captions as caption_text
from lora_studio.core.tags import Categoriser

EXAMPLES = 5


@dataclass(frozen=True)
class Row:
    """One tag."""

    tag: str
    """As it is mostly written."""
    count: int
    """Pictures that have it."""
    share: float
    """That as a share of all pictures."""
    category: str
    with_trigger: float
    """Share of its pictures that have the trigger as well; 0 without a trigger."""


@dataclass(frozen=True)
class Balance:
    """How much of the captions one kind of tags takes."""

    category: str
    tags: int
    """Different ones."""
    uses: int
    """How often they stand."""
    pictures: int
    """Pictures with at least one of them."""
    share: float
    """That as a share of all pictures."""
    examples: tuple[str, ...]
    """The most frequent ones."""


def keys(captions: Mapping[int, str]) -> dict[int, list[str]]:
    """The tags of each picture in small letters, in order, each once."""
    return {image: _keys(caption) for image, caption in captions.items()}


def _keys(caption: str) -> list[str]:
    parts = caption.casefold().split(", ")
    if len(set(parts)) == len(parts) and all(part and part.strip() == part and "," not in part for part in parts):
        return parts if "\n" not in caption else caption_text.split(caption.casefold())
    return caption_text.split(caption.casefold())


def spellings(captions: Mapping[int, str]) -> dict[str, str]:
    """Tag in small letters -> how it is mostly written."""
    written: Counter[str] = Counter()
    for caption in captions.values():
        written.update(caption_text.split(caption) if "\n" in caption else map(str.strip, caption.split(",")))
    found: dict[str, str] = {}
    for tag, _ in sorted(written.items(), key=lambda item: (-item[1], item[0])):
        if tag:
            found.setdefault(tag.casefold(), tag)
    return found


def table(captions: Mapping[int, str], trigger: str, category: Categoriser) -> list[Row]:
    """Every tag of the captions (picture id -> caption), the most frequent first; case makes no difference."""
    every = keys(captions)
    word = trigger.casefold()
    counts: Counter[str] = Counter()
    beside: Counter[str] = Counter()
    for tags in every.values():
        counts.update(tags)
        if word in tags:
            beside.update(tags)
    written, total = spellings(captions), max(1, len(every))
    return [
        Row(written[tag], count, count / total, category(tag), beside[tag] / count)
        for tag, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def together(captions: Mapping[int, str], most: int = 40) -> tuple[list[str], NDArray[np.int64]]:
    """The `most` most frequent tags and (N, N) pictures that have both; on the diagonal those that have the one."""
    every = keys(captions)
    counts = Counter(tag for tags in every.values() for tag in tags)
    names = sorted(counts, key=lambda tag: (-counts[tag], tag))[:most]
    written = spellings(captions)
    return [written[name] for name in names], joint(every, names)


def joint(every: Mapping[int, list[str]], names: list[str]) -> NDArray[np.int64]:
    """(N, N) number of pictures that have both tags of `names`."""
    place = {name: index for index, name in enumerate(names)}
    seen = np.zeros((len(every), len(names)), np.float32)
    rows, columns = [], []
    for row, tags in enumerate(every.values()):
        for tag in tags:
            if tag in place:
                rows.append(row)
                columns.append(place[tag])
    seen[rows, columns] = 1
    return (seen.T @ seen).astype(np.int64)  # float32 counts exactly up to 16 million


def balance(captions: Mapping[int, str], category: Categoriser) -> list[Balance]:
    """The kinds of tags by the pictures that speak of them, the commonest first."""
    every = keys(captions)
    uses: dict[str, Counter[str]] = {}
    pictures: Counter[str] = Counter()
    for tags in every.values():
        kinds = [category(tag) for tag in tags]
        pictures.update(set(kinds))
        for tag, kind in zip(tags, kinds, strict=True):
            uses.setdefault(kind, Counter())[tag] += 1
    total = max(1, len(every))
    found = [
        Balance(kind, len(tags), tags.total(), pictures[kind], pictures[kind] / total, _most(tags))
        for kind, tags in uses.items()
    ]
    return sorted(found, key=lambda one: (-one.pictures, one.category))


def _most(tags: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(tags, key=lambda tag: (-tags[tag], tag))[:EXAMPLES])
