"""Which layers an adapter takes, and how large it is in each: adapter.layers, include, exclude, ranks, conv_rank."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lora_studio.core.errors import UserError
from lora_studio.engine.adapters.layer import weight_shape
from lora_studio.engine.config import AdapterConfig
from lora_studio.engine.config.adapter import pairs

IA3_OUT = ("to_k", "to_v", "k_proj", "v_proj")
IA3_IN = ("ff.net.2", "mlp.fc2")
"""Layers of (IA)3 as LyCORIS' preset has them: keys and values by output, the second feed-forward layer by input."""


@dataclass(frozen=True)
class Size:
    """The adapter of one layer."""

    rank: int
    alpha: float
    """As it stands in the file: what is learned is multiplied by alpha / rank."""


Plan = dict[str, dict[str, Size]]
"""Size by part and by module name."""


def make_plan(config: AdapterConfig, found: Mapping[str, list[str]], networks: Mapping[str, nn.Module]) -> Plan:
    """The layers to adapt among those `found` by part. Raises UserError when none is left."""
    plan: Plan = {}
    for part, names in found.items():
        modules = dict(networks[part].named_modules())
        chosen = {name: size_of(config, f"{part}.{name}", modules[name]) for name in names if fits_kind(config, name)}
        plan[part] = {name: size for name, size in chosen.items() if size.rank}
    if not any(plan.values()):
        set_here = [name for name in ("include", "exclude", "ranks") if getattr(config, name)]
        places = ", ".join(f"adapter.{name}" for name in set_here) or "adapter.layers"
        raise UserError(
            f"No layer is left to train: {places} leave out all {sum(map(len, found.values()))} layers of "
            f"adapter.layers {config.layers}.",
            "Loosen these settings; names look like unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.",
        )
    return {part: sizes for part, sizes in plan.items() if sizes}


def fits_kind(config: AdapterConfig, name: str) -> bool:
    """Whether the kind of adapter takes a layer: (IA)3 has its own few."""
    return config.kind != "ia3" or name.endswith(IA3_OUT + IA3_IN)


def size_of(config: AdapterConfig, name: str, module: nn.Module) -> Size:
    """Rank and alpha of the layer `name` (with its part); rank 0 for one that is left out."""
    if config.include and not any(re.search(pattern, name) for pattern in config.include):
        return Size(0, 0.0)
    if any(re.search(pattern, name) for pattern in config.exclude):
        return Size(0, 0.0)
    rank, ratio = config.rank, config.alpha / config.rank
    if is_wide(module):
        rank = config.conv_rank or rank
        ratio = config.conv_alpha / rank if config.conv_alpha else ratio
    rank = next((int(r) for pattern, r in pairs(config.ranks, "adapter.ranks") if re.search(pattern, name)), rank)
    if config.init != "default":  # the start is cut out of the base, which has no more directions than this
        out, *rest = weight_shape(module)
        rank = min(rank, out, math.prod(rest))
    return Size(rank, in_file(ratio * rank * (math.sqrt(rank) if config.rs_lora else 1.0)))


def is_wide(module: nn.Module) -> bool:
    """Whether it is a convolution that looks at more than one point."""
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1


def in_file(alpha: float) -> float:
    """The number that a half-precision file holds, so that memory and file scale alike."""
    return float(torch.tensor(alpha, dtype=torch.float16))
