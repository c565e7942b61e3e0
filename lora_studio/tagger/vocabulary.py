"""The tags a tagger knows, each with its category and the level from which it is believed. Imports no torch."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_studio.core.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """Tags in the order of the tag head's rows; the three tuples have one entry a tag."""

    names: tuple[str, ...]
    categories: tuple[str, ...]
    thresholds: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def levels(self) -> NDArray[np.float64]:
        """(T,) probability from which each tag is believed."""
        return np.array(self.thresholds)

    @cached_property
    def kinds(self) -> NDArray[np.str_]:
        """(T,) category of each tag in small letters."""
        return np.array([category.casefold() for category in self.categories])


def load_vocabulary(path: Path) -> Vocabulary:
    """Read `{"tags": [{"name", "category", "threshold"}]}`. Raises UserError naming the file and the fault."""
    try:
        entries = json.loads(path.read_text("utf-8"))["tags"]
        tags = [_entry(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The tagger's {path.name} cannot be read ({error}).", "Restore the tagger's folder."
        ) from error
    names = tuple(name for name, _, _ in tags)
    if not names or len(set(names)) != len(names):
        problem = "has no tags" if not names else "names a tag twice"
        raise UserError(f"The tagger's {path.name} {problem}.", "Restore the tagger's folder.")
    return Vocabulary(names, tuple(category for _, category, _ in tags), tuple(level for _, _, level in tags))


def _entry(entry: dict[str, Any]) -> tuple[str, str, float]:
    name, level = str(entry["name"]).strip(), float(entry.get("threshold", 0.5))
    if not name or "," in name:
        raise ValueError(f"{entry['name']!r} is no tag: it is empty or has a comma")
    if not 0 < level < 1:
        raise ValueError(f"threshold of {name} is {level}, not between 0 and 1")
    return name, str(entry.get("category", "general")), level


# --- Lists of booru taggers -------------------------------------------------------------------------------------

KAOMOJI = frozenset(
    (
        "0_0",
        "(o)_(o)",
        "+_+",
        "+_-",
        "._.",
        "<o>_<o>",
        "<|>_<|>",
        "=_=",
        ">_<",
        "3_3",
        "6_9",
        ">_o",
        "@_@",
        "^_^",
        "o_o",
        "u_u",
        "x_x",
        "|_|",
        "||_||",
    )
)
"""Booru tags that are faces drawn with letters: their underscores are no spaces."""
BOORU = {"9": ("rating", 0.05), "0": ("general", 0.35), "4": ("character", 0.85)}
"""Category number of the list -> our name for it, and from which probability it is believed: those usual for the WD
family. Of the ratings the likeliest is meant, so nearly any probability will do."""


def spaced(tag: str) -> str:
    """A booru tag as people write it: `long_hair` -> `long hair`; faces drawn with letters stay as they are."""
    return tag if tag in KAOMOJI else tag.replace("_", " ")


@lru_cache(maxsize=4)
def _tag_csv(path: Path, changed: int) -> Vocabulary:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = [BOORU.get(str(row["category"]).strip(), ("other", 0.5)) for row in rows]
    names = tuple(spaced(str(row["name"]).strip()) for row in rows)
    if not names or not all(names):
        raise ValueError("a tag without a name" if names else "no tags")
    return Vocabulary(names, tuple(name for name, _ in kinds), tuple(level for _, level in kinds))


def load_tag_csv(path: Path) -> Vocabulary:
    """Read `selected_tags.csv` (columns name and category) of a WD tagger, in the order of the model's answers, names
    with spaces. Raises UserError naming the file and the fault."""
    try:
        return _tag_csv(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is no list of tags ({reason}).", "Fetch or copy the model again.") from error


# --- Lists of words ---------------------------------------------------------------------------------------------

MOST_WORDS = 50_000


def load_word_list(path: Path, category: Callable[[str], str]) -> Vocabulary:
    """A list for models that compare pictures with words: a text file with one word or phrase a line (commas separate
    them too), or a `.csv` with the columns name and category, as WD taggers have it. `category` gives the kind of each.

    Raises UserError naming the file when it cannot be read, is empty, or too long.
    """
    if path.suffix.casefold() == ".csv":
        listed = load_tag_csv(path)
        return replace(listed, thresholds=(0.5,) * len(listed))
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"The list {path} cannot be read ({error}).", "Save it as a text file in UTF-8.") from error
    words = dict.fromkeys(" ".join(word.split()) for word in re.split(r"[,\n]", text))
    names = tuple(spaced(word) for word in words if word)
    if not names or len(names) > MOST_WORDS:
        problem = f"has {len(names)} words, at most {MOST_WORDS} are possible" if names else "has no words"
        raise UserError(f"The list {path} {problem}.", "Write one word or phrase a line.")
    return Vocabulary(names, tuple(category(name) for name in names), (0.5,) * len(names))
