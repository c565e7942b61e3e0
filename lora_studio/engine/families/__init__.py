"""One file for each model family, holding only what differs from the others."""

from pathlib import Path

import torch

from lora_studio.core.errors import UserError
from lora_studio.engine.config import BaseConfig
from lora_studio.engine.detect import Detected, detect
from lora_studio.engine.families.base import AS_IT_SAYS, Family
from lora_studio.engine.families.sd import StableDiffusion, StableDiffusion2
from lora_studio.engine.families.sdxl import StableDiffusionXL

FAMILIES: dict[str, type[Family]] = {
    "sd1": StableDiffusion,
    "sd2": StableDiffusion2,
    "sd-small": StableDiffusion,
    "sdxl": StableDiffusionXL,
}


def usable_base(path: Path) -> Detected:
    """What the base at `path` is, by its headers alone. Raises UserError with the reason when it cannot be used."""
    found = detect(path)
    if found.kind != "base" or found.problem:
        reason = found.problem or f"it is a {found.detail or found.kind}"
        raise UserError(f"The base model {path.name} cannot be used: {reason}.", "Choose another base (base.model).")
    return found


def open_family(path: Path, device: torch.device, dtype: torch.dtype, config: BaseConfig = AS_IT_SAYS) -> Family:
    """The base at `path` as the family it belongs to. Raises UserError with the reason when it cannot be used."""
    return FAMILIES[usable_base(path).family].load(path, device, dtype, config)
