"""Taggers of the WD family, version 3: architectures of timm with a list of booru tags.

The folder holds `config.json`, `model.safetensors` and `selected_tags.csv`, as SmilingWolf publishes them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import timm
import torch
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.tagger.booru import square
from lora_studio.tagger.clip import fill, remedy_for
from lora_studio.tagger.models import CONFIG, TAG_CSV, WEIGHTS, read_json
from lora_studio.tagger.scoring import Floats, Prepared, best_device, number_type, stacked
from lora_studio.tagger.vocabulary import Vocabulary, load_tag_csv

LOADING = {"pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments with which timm would open another file, maybe a pickle."""


class WdTagger(Prepared):
    """Probabilities of booru tags."""

    def __init__(
        self, model: torch.nn.Module, vocabulary: Vocabulary, cfg: dict[str, Any], device: str, dtype: torch.dtype
    ) -> None:
        self.vocabulary, self.device, self._dtype = vocabulary, device, dtype
        self._model = model.eval().requires_grad_(False).to(device, dtype)
        self._size = int(cfg["input_size"][-1])
        mean, std = (np.array(cfg[name], np.float32)[:, None, None] for name in ("mean", "std"))
        self._scale, self._shift = 255 * std, mean / std

    def prepare(self, image: Image.Image) -> Floats:
        """An RGB picture -> (3, S, S), blue first, from -1 to 1 (`x / 127.5 - 1` with the usual mean and deviation)."""
        pixels = square(image, self._size).transpose(2, 0, 1).astype(np.float32)
        return pixels / self._scale - self._shift

    @torch.inference_mode()
    def score_prepared(self, batch: Sequence[Floats]) -> Floats:
        """B prepared pictures -> (B, T) probabilities, in the order of the list."""
        return self._model(stacked(batch, self.device, self._dtype)).float().sigmoid().cpu().numpy()


def load_scorer(folder: Path, device: str | None = None, half: bool | None = None) -> WdTagger:
    """The tagger in `folder`, which `models.folder_kind` has called `wd`. Raises UserError naming the file at fault."""
    config, vocabulary = read_json(folder / CONFIG), load_tag_csv(folder / TAG_CSV)
    cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 448, 448)} | config.get("pretrained_cfg", {})
    name, args = config["architecture"], config.get("model_args", {})
    try:
        if not timm.is_model(name) or set(args) & LOADING:
            raise ValueError(f"{name} is none of its architectures, or is to be loaded from elsewhere")
        model = timm.create_model(name, pretrained=False, num_classes=len(vocabulary), **args)
    except Exception as error:  # whatever a constructor raises for names and sizes it does not know
        raise UserError(
            f"{folder / CONFIG} describes no model that timm {timm.__version__} knows ({error}).", remedy_for(folder)
        ) from error
    fill(model, folder / WEIGHTS)
    device = best_device(device)
    return WdTagger(model, vocabulary, cfg, device, number_type(device, half))
