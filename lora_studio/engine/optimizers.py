"""Optimizers by name, their rates, and the weights that a schedule-free one is to be judged by.

Every group of an optimizer made here carries `name` (the part it belongs to) and `base_lr` (its full rate). Packages
are imported only for the kind that is chosen.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lora_studio.core.errors import UserError
from lora_studio.engine.config import OptimizerConfig
from lora_studio.engine.rounding import StochasticBF16

CAME_BETA3 = 0.9999  # memory of the confidence; arXiv 2307.02047
MUON_MOMENTUM = 0.95  # of its authors

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a full rate."""

    name: str
    """The part they belong to: unet, text_encoder, text_encoder_2."""
    params: list[nn.Parameter]
    lr: float
    """Full rate; 0 leaves the group untouched."""


def make_optimizer(groups: list[ParamGroup], config: OptimizerConfig, seed: int = 0) -> Optimizer | StochasticBF16:
    """The optimizer of `config.kind` over `groups`; bfloat16 parameters are rounded by chance drawn from `seed`.

    Raises UserError when its package or device is not there.
    """
    if config.kind in SCHEDULE_FREE and config.betas[0] == 0:
        raise UserError(
            f"optimizer.betas begins with 0, which {config.kind} cannot do: its average is made with it.",
            "Set the first of optimizer.betas to 0.9, or choose another optimizer.kind.",
        )
    listed: Groups = [
        {"params": list(group.params), "name": group.name, "lr": group.lr, "base_lr": group.lr}
        for group in groups
        if group.params and group.lr
    ]
    for group in listed:
        group["weight_decay"] = config.weight_decay
    optimizer = FACTORIES[config.kind](listed, config)
    optimizer.kind = config.kind
    if config.kind in SCHEDULE_FREE:
        optimizer.train()
    if any(parameter.dtype == torch.bfloat16 for group in listed for parameter in group["params"]):
        return StochasticBF16(optimizer, seed)
    return optimizer


def set_rate(optimizer: Optimizer | StochasticBF16, multiplier: float) -> dict[str, float]:
    """Scale every group's full rate; returns the rate by part, that of the part's first group.

    Where the optimizer finds the rate itself (Prodigy), what is returned is the rate that it found times ours.
    """
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group.get("shared_lr", group["base_lr"]) * multiplier
        rates.setdefault(group["name"], group["base_lr"] * multiplier * group.get("d", 1.0))
    return rates


@contextmanager
def averaged(optimizer: Optimizer | StochasticBF16) -> Iterator[None]:
    """Within: the averaged weights that a schedule-free optimizer is about; with all others the weights as they are.

    Afterwards the weights are the very same as before. (The packages' own way back is computed, and rounds: then a run
    would depend on how often it was looked at.)
    """
    groups = optimizer.param_groups
    if optimizer.kind not in SCHEDULE_FREE or not groups[0]["train_mode"]:
        yield
        return
    parameters = [parameter for group in groups for parameter in group["params"]]
    kept = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
        for group in groups:
            group["train_mode"] = True


# --- the kinds --------------------------------------------------------------------------------------------------------


def _adamw(groups: Groups, config: OptimizerConfig) -> Optimizer:
    device = groups[0]["params"][0].device
    fused = device.type in ("cpu", "cuda")  # one kernel over all parameters; there for both since torch 2.4
    return torch.optim.AdamW(groups, betas=config.betas, fused=fused)


def _adamw8bit(groups: Groups, config: OptimizerConfig) -> Optimizer:
    if groups[0]["params"][0].device.type != "cuda":
        raise UserError(
            "optimizer.kind adamw8bit needs an NVIDIA GPU; this run is on the processor.",
            "Choose optimizer.kind adamw, or adafactor to save memory.",
        )
    return _package("bitsandbytes", config).optim.AdamW8bit(groups, betas=config.betas)


def _adafactor(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """transformers' Adafactor at a rate from outside.

    torch's own always scales the rate by the size of each matrix and caps it by 1 / sqrt(step): the up matrices of an
    adapter, which begin at zero, would hardly move.
    """
    adafactor = _package("transformers.optimization", config).Adafactor
    return adafactor(groups, lr=groups[0]["lr"], scale_parameter=False, relative_step=False, warmup_init=False)


def _lion(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return _package("pytorch_optimizer", config).Lion(groups, betas=config.betas)


def _came(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return _package("pytorch_optimizer", config).CAME(groups, betas=(*config.betas, CAME_BETA3))


def _stable_adamw(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return _package("pytorch_optimizer", config).StableAdamW(groups, betas=config.betas)


def _muon(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """Muon for matrices, AdamW for all else, in one optimizer.

    Steps are scaled by 0.2 sqrt(longer side), as long as AdamW's (arXiv 2502.16982): the same rates fit both.
    """
    split: Groups = []
    for group in groups:
        for matrices in (True, False):
            params = [parameter for parameter in group["params"] if (parameter.ndim == 2) == matrices]
            own = {"use_adjusted_lr": True, "momentum": MUON_MOMENTUM} if matrices else {"betas": config.betas}
            if params:
                split.append({**group, "params": params, "use_muon": matrices, **own})
    return _package("pytorch_optimizer", config).Muon(split, adamw_eps=1e-8)


def _schedulefree_adamw(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return _package("schedulefree", config).AdamWScheduleFree(groups, betas=config.betas)


def _schedulefree_prodigy(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """One found rate for all groups, so that their rates keep the ratio that the settings give them.

    Its own stochastic rounding draws from torch's shared generator and cannot be resumed: ours stands in for it.
    """
    package = _package("prodigyplus", config)

    class Prodigy(package.ProdigyPlusScheduleFree):
        """Without its patches to other trainers, and with a d_coef below 0.84 that works."""

        def try_hook_kohya_fbp(self) -> None: ...

        def try_unhook_kohya_fbp(self) -> None: ...

        def calculate_d(self, group: dict[str, Any]) -> None:
            """The package lets d grow by 2^(1/4) a step and scales by d_coef after that: 0.5 would never grow."""
            kept = {name: group[name] for name in ("d_coef", "d_numerator")}
            group |= {"d_coef": 1.0, "d_numerator": kept["d_numerator"] * kept["d_coef"]}
            super().calculate_d(group)
            group |= kept

    return Prodigy(groups, betas=config.betas, d_coef=config.d_coef, split_groups=False, stochastic_rounding=False)


def _prodigy(groups: Groups, config: OptimizerConfig) -> Optimizer:
    """Prodigy with one found rate; groups may differ in theirs, which the package alone does not allow.

    A group whose rate is f times the others' is trained in coordinates u = x / f, with gradients f times as large. In
    u it takes the same rate as the others, so the package's formulas hold unchanged, and x moves f times as far.
    """
    package = _package("prodigyopt", config)
    # The rate nearest to 1 is the one that the package sees: Prodigy's estimate is made for 1.
    nearest = min((group["lr"] for group in groups), key=lambda rate: abs(math.log(rate)))
    for group in groups:
        group["relative"] = group["lr"] / nearest
        group["lr"] = group["shared_lr"] = nearest

    class Prodigy(package.Prodigy):
        """In the scaled coordinates of each group."""

        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            for group, parameter in _with_gradient(self):
                _rescale(self.state[parameter], group["relative"])
                if group["relative"] != 1:
                    parameter.div_(group["relative"])
                    parameter.grad.mul_(group["relative"])
            try:
                super().step()
            finally:
                for group, parameter in _with_gradient(self):
                    self.state[parameter]["scaled_by"] = group["relative"]
                    if group["relative"] != 1:
                        parameter.mul_(group["relative"])

    return Prodigy(
        groups,
        lr=nearest,
        betas=config.betas,
        d_coef=config.d_coef,
        decouple=True,
        use_bias_correction=True,
        safeguard_warmup=True,
    )


def _rescale(memory: dict[str, Any], relative: float) -> None:
    """Take Prodigy's memory of one parameter to other coordinates, where a run goes on with other rates."""
    factor = relative / memory.get("scaled_by", relative)
    if factor != 1:
        powers = {"p0": -1, "s": 1, "exp_avg": 1, "exp_avg_sq": 2}
        for name in powers.keys() & memory.keys():
            memory[name].mul_(factor ** powers[name])


def _with_gradient(optimizer: Optimizer) -> list[tuple[dict[str, Any], nn.Parameter]]:
    return [
        (group, parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]


def _package(name: str, config: OptimizerConfig) -> Any:
    importlib.import_module("lora_studio.torchvision_ops")  # several of them import transformers where it is there
    try:
        return importlib.import_module(name)
    except ImportError as error:
        wheel = _WHEELS.get(name, name)
        raise UserError(
            f"optimizer.kind {config.kind} needs the package {wheel}, which cannot be loaded ({error}).",
            f"Install it with: pip install {wheel} - or choose optimizer.kind adamw.",
        ) from error


_WHEELS = {
    "pytorch_optimizer": "pytorch-optimizer",
    "prodigyplus": "prodigy-plus-schedule-free",
    "transformers.optimization": "transformers",
}
SCHEDULE_FREE = {"schedulefree_adamw", "schedulefree_prodigy"}
FACTORIES: dict[str, Callable[[Groups, OptimizerConfig], Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "lion": _lion,
    "came": _came,
    "stable_adamw": _stable_adamw,
    "muon": _muon,
    "prodigy": _prodigy,
    "schedulefree_adamw": _schedulefree_adamw,
    "schedulefree_prodigy": _schedulefree_prodigy,
}
