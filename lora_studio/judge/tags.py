"""What the captions say as a whole, in numbers: each tag, which stand together, of what they speak."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


class _Small(dict[str, str]):
    """A part of a caption as it stands there -> the tag in small letters; each is worked out once."""

    def __missing__(self, part: str) -> str:
        self[part] = tag = part.strip().casefold()
        return tag


def keys(captions: Mapping[int, str]) -> dict[int, list[str]]:
    """The tags of each picture in small letters, in order, each once."""
    small, found = _Small(), {}
    for image, caption in captions.items():
        tags = dict.fromkeys([small[part] for part in _parts(caption)])
        tags.pop("", None)
        found[image] = list(tags)
    return found


def _parts(caption: str) -> list[str]:
    return (caption.replace("\n", ",") if "\n" in caption else caption).split(",")


def spellings(captions: Mapping[int, str]) -> dict[str, str]:
    """Tag in small letters -> how it is mostly written."""
    written: Counter[str] = Counter()
    for caption in captions.values():
        written.update(_parts(caption))
    stripped: Counter[str] = Counter()
    for part, count in written.items():
        stripped[part.strip()] += count
    found: dict[str, str] = {}
    for tag in sorted(stripped, key=lambda tag: (-stripped[tag], tag)):
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
    counts = Counter(tag for tags in every.values() for tag in tags)
    kinds = {tag: category(tag) for tag in counts}
    for tag, count in counts.items():
        uses.setdefault(kinds[tag], Counter())[tag] = count
    for tags in every.values():
        pictures.update({kinds[tag] for tag in tags})
    total = max(1, len(every))
    found = [
        Balance(kind, len(tags), tags.total(), pictures[kind], pictures[kind] / total, _most(tags))
        for kind, tags in uses.items()
    ]
    return sorted(found, key=lambda one: (-one.pictures, one.category))


def _most(tags: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(tags, key=lambda tag: (-tags[tag], tag))[:EXAMPLES])
