"""The tags a tagger knows, each with its category and the level from which it is believed. Imports no torch."""

import json
from dataclasses import dataclass
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

    @property
    def levels(self) -> NDArray[np.float64]:
        """(T,) probability from which each tag is believed."""
        return np.array(self.thresholds)


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
