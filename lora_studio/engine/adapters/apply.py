"""Any kind of LoRA file on a base's own modules, for drawing: nothing of the base is changed, so that taking it off
again leaves the base bit for bit."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lora_studio.core.errors import UserError
from lora_studio.engine.adapters.delta import by_module, delta, scale
from lora_studio.engine.adapters.formulas import kind_of
from lora_studio.engine.adapters.layer import base_weight, like, operate, wide
from lora_studio.engine.keys import in_network, module_name

PARTS = ("unet", "text_encoder", "text_encoder_2")
Change = Callable[[nn.Module, Tensor], Tensor]
"""(module, input) -> what is added to the module's output."""


class Applied:
    """A file on a base."""

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Take it off. A second time does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


@torch.no_grad()
def apply_file(target: Any, tensors: Mapping[str, Tensor], strength: float = 1.0) -> Applied:
    """Put a file's `tensors` (in kohya's layout, see load_lora) on a pipeline, or on networks by part.

    The base acts as W + strength * (W' - W) for every kind. LoRA and LoCon stay two thin factors; of the other kinds
    W' - W is kept beside W, in its number format. Several files can lie on one base, each reckoned from the bare base.
    Raises UserError when the file does not fit, and leaves nothing on then.
    """
    networks = target if isinstance(target, Mapping) else _networks(target)
    family = "sdxl" if is_xl(networks) else "sd"
    names = {part: dict(network.named_modules()) for part, network in networks.items()}
    changes: list[tuple[nn.Module, Change]] = []
    for key, own in by_module(tensors).items():
        module = _find(family, key, names)
        if module is not None:
            changes.append((module, make_change(key, module, own, strength)))
    if not changes:
        raise UserError("The file changes no layer of this base.", "Use the base that it was trained on.")
    return Applied([module.register_forward_hook(_hook(change)) for module, change in changes])


def make_change(key: str, module: nn.Module, own: dict[str, Tensor], strength: float) -> Change:
    """What one module's tensors add to the module's output."""
    if kind_of(own) == "lora" and "lora_mid.weight" not in own:
        return _thin(key, module, own, strength)
    base = wide(base_weight(module))
    try:
        change = strength * delta(own, base)
    except UserError as error:
        raise UserError(f"{key}: {error.message}", error.remedy) from error
    stored = module.weight.dtype
    weight = change.to(stored if stored in (torch.float16, torch.bfloat16, torch.float64) else torch.float32)
    return lambda layer, x: operate(layer, x, *like(x, weight))


def _thin(key: str, module: nn.Module, own: dict[str, Tensor], strength: float) -> Change:
    """LoRA and LoCon, without building the weight."""
    device = module.weight.device
    down, up = wide(own["lora_down.weight"]).to(device), wide(own["lora_up.weight"]).to(device)
    is_conv = isinstance(module, nn.Conv2d)
    if is_conv and down.dim() == 2:  # some writers keep 1x1 convolutions as matrices
        down, up = down[..., None, None], up.flatten(1)[..., None, None]
    if not is_conv:
        down, up = down.flatten(1), up.flatten(1)
    shape = (module.out_channels, module.in_channels) if is_conv else (module.out_features, module.in_features)
    if (up.shape[0], down.shape[1]) != shape or (is_conv and down.shape[2:] != module.weight.shape[2:]):
        raise UserError(
            f"{key} is made for a layer of {(up.shape[0], *down.shape[1:])}; here it has {shape}.",
            "Use the base that it was trained on.",
        )
    up = up * (strength * scale(own, down.shape[0]))
    if not is_conv:
        return lambda layer, x: F.linear(F.linear(x, like(x, down)[0]), like(x, up)[0])
    return lambda layer, x: F.conv2d(operate(layer, x, *like(x, down)), like(x, up)[0])


def _hook(change: Change) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, inputs, output: output + change(module, inputs[0]).to(output.dtype)


def _networks(pipeline: Any) -> dict[str, nn.Module]:
    return {part: getattr(pipeline, part) for part in PARTS if isinstance(getattr(pipeline, part, None), nn.Module)}


def is_xl(networks: Mapping[str, nn.Module]) -> bool:
    """Whether the networks are those of an SDXL base: a second text encoder, or a UNet that is told picture sizes."""
    unet = networks.get("unet")
    told = getattr(getattr(unet, "config", None), "addition_embed_type", None) == "text_time"
    return "text_encoder_2" in networks or told


def _find(family: str, key: str, names: Mapping[str, Mapping[str, nn.Module]]) -> nn.Module | None:
    """The module a key names; None when it belongs to a part that is not given."""
    remedy = "Use the base that it was trained on."
    try:
        part, path = module_name(family, key)
    except ValueError as error:
        raise UserError(f"The file does not fit the base: {error}.", remedy) from error
    if part not in names:
        return None
    module = names[part].get(in_network(path, names[part]))
    if module is None or not hasattr(module, "weight"):
        raise UserError(f"The file does not fit the base, which has no layer {part}.{path}.", remedy)
    return module
