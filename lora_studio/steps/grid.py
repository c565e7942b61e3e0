"""The cells of a test's grid, and the file that keeps them: a test shows the pictures that it made, whatever the
program would name them today."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_studio.core.files import write_text


@dataclass(frozen=True)
class Cell:
    """One picture of the grid; `checkpoint` None is the base without LoRA."""

    checkpoint: str | None
    strength: float
    prompt: str
    role: str
    """learn: the prompt should show the subject; bleed: it must stay as the base draws it."""
    seed: int
    file: str
    """Where its picture lies, relative to the test's folder."""


def keep_cells(folder: Path, cells: Sequence[Cell]) -> None:
    """Keep the grid with its test."""
    write_text(folder / "cells.json", json.dumps([asdict(cell) for cell in cells], indent=1))


def kept_cells(folder: Path) -> list[Cell] | None:
    """The grid as it was kept; None for a test from before grids were."""
    path = folder / "cells.json"
    return [Cell(**cell) for cell in json.loads(path.read_text("utf-8"))] if path.exists() else None
