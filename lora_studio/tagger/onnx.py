"""WD taggers as ONNX files, with `selected_tags.csv` beside them: what is published of the older versions.

Needs the extra "onnx". A graph of ONNX holds numbers and known operations only: it cannot run a program.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.tagger.booru import square
from lora_studio.tagger.models import ONNX, TAG_CSV
from lora_studio.tagger.scoring import Floats, Prepared
from lora_studio.tagger.vocabulary import Vocabulary, load_tag_csv

PROVIDERS = ("CUDAExecutionProvider", "ROCMExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider")
USUAL_SIZE = 448


class OnnxTagger(Prepared):
    """Probabilities of booru tags."""

    def __init__(self, session: Any, vocabulary: Vocabulary, device: str) -> None:
        self.vocabulary, self.device, self._session = vocabulary, device, session
        self._input = session.get_inputs()[0]
        batch, side = self._input.shape[:2]
        self._size = side if isinstance(side, int) else USUAL_SIZE
        self._batch = batch if isinstance(batch, int) else None

    def prepare(self, image: Image.Image) -> Floats:
        """An RGB picture -> (S, S, 3), blue first, from 0 to 255: the graph begins with the scaling."""
        return square(image, self._size).astype(np.float32)

    def score_prepared(self, batch: Sequence[Floats]) -> Floats:
        """B prepared pictures -> (B, T) probabilities, in the order of the list."""
        pixels, step = np.stack(batch), self._batch or len(batch)
        parts = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step]
            full = np.pad(part, ((0, step - len(part)), (0, 0), (0, 0), (0, 0)))  # a graph may be made for one size
            parts.append(self._session.run(None, {self._input.name: full})[0][: len(part)])
        return np.concatenate(parts).astype(np.float32)


def load_scorer(folder: Path) -> OnnxTagger:
    """The tagger in `folder`, which `models.folder_kind` has called `onnx`. Raises UserError when onnxruntime is not
    installed, and naming the file at fault."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            f"{folder} holds an ONNX file, which needs onnxruntime.",
            'Install the extra "onnx" (pip install "lora-studio[onnx]"), or choose a tagger with .safetensors.',
        ) from None
    file, vocabulary = folder / ONNX, load_tag_csv(folder / TAG_CSV)
    remedy = "Fetch or copy the model again, or choose another one."
    providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(file), providers=providers)
    except Exception as error:  # onnxruntime has a class of its own for each fault, all straight from Exception
        raise UserError(f"{file} is damaged or no ONNX model ({str(error)[:200]}).", remedy) from error
    form, answers = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    if len(form) != 4 or form[3] != 3:
        raise UserError(f"{file} takes pictures as {form}; (batch, height, width, 3) is needed.", remedy)
    if isinstance(answers[-1], int) and answers[-1] != len(vocabulary):
        raise UserError(
            f"{file} answers for {answers[-1]} classes, but {TAG_CSV} has {len(vocabulary)} tags.",
            "Take the list from where the model comes from.",
        )
    device = "cpu" if session.get_providers()[0].startswith("CPU") else "gpu"
    return OnnxTagger(session, vocabulary, device)
