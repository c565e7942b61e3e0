"""What every tagger can do, whatever is behind it, and the few lines they all share."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lora_studio.core.progress import Event
from lora_studio.tagger.config import PROMPT
from lora_studio.tagger.vocabulary import Vocabulary

Floats = NDArray[np.float32]
Report = Callable[[Event], None]


class Scorer(Protocol):
    """Gives each tag of its vocabulary a probability."""

    vocabulary: Vocabulary
    device: str
    draft: int
    """Shorter side in pixels from which on more of a picture tells the model nothing; 0 where each pixel counts."""

    def prepare(self, image: Image.Image) -> Floats:
        """One RGB picture of any size -> the numbers the model looks at. On the CPU; several threads may call it."""
        ...

    def score_prepared(self, batch: Sequence[Floats]) -> Floats:
        """B prepared pictures -> (B, T) probabilities, in the vocabulary's order. One thread at a time."""
        ...

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """B RGB pictures -> (B, T) probabilities, in the vocabulary's order."""
        ...


class Describer(Protocol):
    """Says in a sentence what a picture shows."""

    device: str
    draft: int

    def prepare(self, image: Image.Image) -> Any:
        """One RGB picture of any size as the model takes it. On the CPU; several threads may call it."""
        ...

    def describe_prepared(self, batch: Sequence[Any], prompt: str = PROMPT, max_tokens: int = 120) -> list[str]:
        """B prepared pictures -> B texts. `prompt` is what the model is asked, where it can be asked."""
        ...

    def describe(self, images: Sequence[Image.Image], prompt: str = PROMPT, max_tokens: int = 120) -> list[str]:
        """B RGB pictures -> B texts."""
        ...


class Prepared:
    """For scorers with `prepare` and `score_prepared`: both at once."""

    draft = 0

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """B RGB pictures -> (B, T) probabilities, in the vocabulary's order."""
        return self.score_prepared([self.prepare(image) for image in images])  # type: ignore[attr-defined]


def silent(event: Event) -> None:
    """A report that nobody reads."""


def best_device(device: str | None) -> str:
    """The device asked for, or the GPU where there is one."""
    if device is not None:
        return device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def number_type(device: str, half: bool | None) -> torch.dtype:
    """Half precision on a GPU, where it is twice as fast and changes probabilities in the third place; else float32.
    `half` settles it."""
    wanted = device != "cpu" if half is None else half
    return torch.float16 if wanted else torch.float32


def stacked(batch: Sequence[Floats], device: str, dtype: torch.dtype) -> torch.Tensor:
    """B prepared pictures of one shape -> (B, ...) on the device."""
    return torch.from_numpy(np.stack(batch)).to(device, dtype)
