"""Optimizers by name."""

import torch
from torch import nn
from torch.optim import Optimizer

from lora_studio.engine.config import OptimizerConfig


def make_optimizer(groups: dict[str, list[nn.Parameter]], config: OptimizerConfig) -> Optimizer:
    """AdamW over one group of parameters a part; each group carries its `name` and its full rate as `base_lr`."""
    rates = {"unet": config.unet_lr, "text_encoder": config.text_encoder_lr}
    listed = [
        {"params": parameters, "name": name, "lr": rates[name], "base_lr": rates[name]}
        for name, parameters in groups.items()
    ]
    device = next(iter(groups.values()))[0].device
    fused = device.type in ("cpu", "cuda")  # one kernel over all parameters; there for both since torch 2.4
    return torch.optim.AdamW(listed, betas=config.betas, weight_decay=config.weight_decay, fused=fused)


def set_rate(optimizer: Optimizer, multiplier: float) -> dict[str, float]:
    """Scale every group's full rate; returns the rates by group name."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * multiplier
    return {group["name"]: group["lr"] for group in optimizer.param_groups}
