"""What all adapted layers have in common: a frozen layer, a few trained tensors, switches."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_studio.engine.config import AdapterConfig


@dataclass(frozen=True)
class Chance:
    """What is switched off at random while training. All chance comes from torch's global generators, so that a step
    computed twice (gradient checkpointing) draws the same."""

    inputs: float
    ranks: float
    modules: float

    @classmethod
    def of(cls, config: AdapterConfig) -> "Chance | None":
        """None when nothing is left to chance."""
        shares = (config.dropout, config.rank_dropout, config.module_dropout)
        return cls(*shares) if any(shares) else None

    def skips(self) -> bool:
        """Whether this layer's adapter is left out this time."""
        return bool(self.modules) and torch.rand(()).item() < self.modules

    def thin(self, values: Tensor) -> Tensor:
        """The adapter's input with some of it at zero and the rest enlarged to match."""
        return F.dropout(values, self.inputs) if self.inputs else values

    def thin_ranks(self, values: Tensor, axis: int) -> Tensor:
        """(B, ...) with some channels of `axis` at zero, other ones for each row, and the rest enlarged to match."""
        if not self.ranks:
            return values
        shape = [values.shape[0], *[1] * (values.dim() - 1)]
        shape[axis] = values.shape[axis]
        kept = torch.rand(shape, device=values.device) >= self.ranks
        return values * (kept / (1 - self.ranks)).to(values.dtype)


class Layer:
    """A frozen layer with an adapter; what the class Adapter asks of it. Mixed into an nn.Module."""

    base_layer: nn.Module
    alpha: float
    """What is learned is multiplied by alpha / rank; 0 for kinds that have neither."""
    scale: float
    """What that comes to."""
    on: bool = True
    chance: Chance | None = None
    zeros: tuple[str, ...] = ()
    """Endings of the trained tensors that begin at zero opposite to others that do not."""

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained tensors by their ending in the file."""
        raise NotImplementedError

    @property
    def file_alpha(self) -> float:
        """Alpha as it stands in the file."""
        return self.alpha

    def file(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of the file by ending, for `values` of the trained ones."""
        return {**values, "alpha": torch.tensor(self.file_alpha)}


def weight_shape(module: nn.Module) -> torch.Size:
    """Of the frozen weight, (out, in) or (out, in, k, k), however it is stored."""
    return (
        module.weight.shape if isinstance(module, nn.Conv2d) else torch.Size((module.out_features, module.in_features))
    )


def base_weight(module: nn.Module) -> Tensor:
    """The frozen weight as plain numbers, whatever it is stored in."""
    weight = module.weight
    if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
        from peft.utils.integrations import dequantize_module_weight

        return dequantize_module_weight(module).detach()
    if type(weight) not in (Tensor, nn.Parameter) and hasattr(weight, "dequantize"):  # torchao's tensors
        return weight.dequantize().detach()
    return weight.detach()


def is_quantized(module: nn.Module) -> bool:
    """Whether it is a linear layer that holds its weight in fewer bits: a class of its own, or a tensor of its own."""
    if not isinstance(module, nn.Linear):
        return False
    return type(module) is not nn.Linear or type(module.weight) not in (Tensor, nn.Parameter)


def like(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Weights in the number format of x. Under autocast that is left to torch, which casts each only once a step."""
    if weights[0].dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
        return weights
    return tuple(weight.to(x.dtype) for weight in weights)


def exactly(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """No autocast inside, where it is on at all."""
    kind = tensor.device.type
    if tensor.is_meta or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def wide(tensor: Tensor) -> Tensor:
    """At least fp32: the numbers in which adapters are put together."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def operate(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The frozen layer's own operation with another weight and without bias."""
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x, weight, None, module.stride, module.padding, module.dilation, module.groups)
    return F.linear(x, weight)


def channel_axis(module: nn.Module) -> int:
    """The axis of the layer's channels in its input and output."""
    return 1 if isinstance(module, nn.Conv2d) else -1


def spread(module: nn.Module, values: Tensor) -> Tensor:
    """A number for each output channel, so shaped that it multiplies the layer's output."""
    return values.view(1, -1, 1, 1) if isinstance(module, nn.Conv2d) else values.view(-1)


def without_bias(module: nn.Module, result: Tensor) -> Tensor:
    """The layer's output less its bias."""
    return result if module.bias is None else result - spread(module, module.bias).to(result.dtype)
