"""How pleasing a picture is, 1 to 10: a linear head over the tagger's image embedding, as LAION's aesthetic predictor.

No weights ship. Put `aesthetic.safetensors` with `weight` (1, D) and `bias` (1,) into the tagger's folder; D is the
embedding's length, and the head must have been trained on embeddings of that very model, each of length 1.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lora_studio.core import paths
from lora_studio.core.errors import UserError

FILE = "aesthetic.safetensors"
REMEDY = "Put a head trained for this very model there, or delete the file."


@dataclass(frozen=True)
class AestheticHead:
    """Weights of the head."""

    weight: NDArray[np.float32]
    """(D,)"""
    bias: float

    def score(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, D) embeddings of length 1 -> (B,) from 1 to 10."""
        return np.clip(embeddings @ self.weight + self.bias, 1, 10)


def load_head(model: str, size: int) -> AestheticHead | None:
    """The head in the folder of the tagger `model`, for embeddings of `size`; None where there is none.

    Raises UserError when the file there is damaged or belongs to another model.
    """
    folder = paths.assets() / "starter" / "tagger" if model == "starter" else Path(model).expanduser()
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        state = load_file(file)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged or no safetensors file ({error}).", REMEDY) from error
    shapes = {name: tensor.shape for name, tensor in state.items()}
    if shapes != {"weight": (1, size), "bias": (1,)}:
        found = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "nothing"
        raise UserError(f"{file} holds {found}; weight (1, {size}) and bias (1,) are needed.", REMEDY)
    weight, bias = state["weight"].astype(np.float32)[0], float(state["bias"][0])
    if not np.isfinite(weight).all() or not np.isfinite(bias):
        raise UserError(f"{file} holds values that are not numbers.", REMEDY)
    return AestheticHead(weight, bias)
