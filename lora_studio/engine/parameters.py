"""Which learning rate each trained parameter has: by part, by layer, and by its place in the LoRA (LoRA+)."""

import re

from lora_studio.core.errors import UserError
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.config import OptimizerConfig
from lora_studio.engine.config.adapter import pairs
from lora_studio.engine.optimizers import ParamGroup


def part_rates(config: OptimizerConfig) -> dict[str, float]:
    """Learning rate of each part; a part with rate 0 is not trained."""
    return {
        "unet": config.unet_lr,
        "text_encoder": config.text_encoder_lr,
        "text_encoder_2": config.text_encoder_2_lr,
    }


def parameter_groups(adapter: Adapter, config: OptimizerConfig) -> list[ParamGroup]:
    """One group for each rate of each part: the part's rate, times the layer's factor (optimizer.rates), times the
    LoRA+ ratio for the matrices that begin at zero (Hayou et al. 2024).

    Raises UserError when a pattern of optimizer.rates fits no layer.
    """
    rates, factors = part_rates(config), pairs(config.rates, "optimizer.rates")
    used: set[str] = set()
    groups: dict[tuple[str, float], ParamGroup] = {}
    for key, parameter in adapter.named_parameters():
        module = adapter.module_names[key.partition(".")[0]]
        part = module.partition(".")[0]
        pattern, factor = next(((p, f) for p, f in factors if re.search(p, module)), ("", 1.0))
        used.add(pattern)
        rate = rates[part] * factor * (config.lora_plus_ratio if adapter.is_up(key) else 1.0)
        groups.setdefault((part, rate), ParamGroup(part, [], rate)).params.append(parameter)
    unused = [pattern for pattern, _ in factors if pattern not in used]
    if unused:
        raise UserError(
            f"optimizer.rates: {', '.join(unused)} fits no layer that is trained.",
            "Layers are called unet.down_blocks.0.attentions.0... and text_encoder.encoder.layers.0...",
        )
    return list(groups.values())
