"""What the judge knows of one picture, and what it says of it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lora_studio.judge.measures import Measures

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of width and height."""


@dataclass(frozen=True)
class ImageFacts:
    """What is known of one picture. What was not looked at yet is None: a judgement leaves it out, never guesses."""

    id: int
    width: int
    height: int
    sharpness: float
    phash: int
    signature: bytes
    """192 bytes: mean colours of an 8 x 8 grid."""
    sha256: str
    decision: str = "new"
    crops: tuple[Box | None, ...] = (None,)
    """The parts that will be trained on; None is the whole picture."""
    tags: tuple[str, ...] = ()
    """Of its caption."""
    measures: Measures | None = None
    faces: tuple[Box, ...] | None = None
    lettering: float | None = None
    """Share of the picture under text or a watermark."""
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)
    """(D,) of length 1, by the auto-tagger's image tower."""
    scores: dict[str, float] | None = field(default=None, compare=False)
    """What the auto-tagger sees: tag -> probability, those above 0.05."""
    aesthetic: float | None = None
    """1 to 10, where weights of an aesthetic head are present."""

    @property
    def side(self) -> float:
        """Side in pixels of the square with this picture's area."""
        return float(np.sqrt(self.width * self.height))


@dataclass(frozen=True)
class Flag:
    """Something about one picture, e.g. `blurred`, in words that name the threshold it crossed."""

    name: str
    text: str
    other: int | None = None
    """Id of the picture to keep instead, for copies."""
    value: float | None = None
    """What was measured."""
    threshold: float | None = None
    """What it crossed."""
