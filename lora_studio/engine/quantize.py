"""The frozen network in fewer bits: weight-only fp8, int8 and nf4 of its linear layers.

The weights are kept small and are made whole again just before each product, forward and backward: memory falls to a
half (fp8, int8) or a quarter (nf4) of bf16 for these layers, the arithmetic stays that of the whole network. fp8 and
int8 need nothing but torch, on any device; nf4 takes bitsandbytes' packing.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_studio.core.errors import UserError

Reader = Callable[[torch.dtype], Tensor]

FP8_MAX = 448.0  # largest number of float8_e4m3fn (OCP 8-bit floating point, 2023)
INT8_MAX = 127.0
NF4_BLOCK = 64  # weights that share one scale (QLoRA, Dettmers et al. 2023)


class FrozenProduct(torch.autograd.Function):
    """x @ weight^T + bias with a weight that is not trained, which is read anew in the backward pass.

    torch's own linear keeps the weight that it used (or a view of it) alive until the backward pass; here only the
    tensors that it is read from are kept, so a weight made whole for the product is let go at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, read: Callable[..., Tensor], *stored: Tensor) -> Tensor:
        """`read(dtype, *stored)` gives the (out, in) weight; x (..., in) -> (..., out)."""
        ctx.save_for_backward(*stored)
        ctx.read = read
        return F.linear(x, read(x.dtype, *stored), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of x; nothing else is trained here."""
        stored = ctx.saved_tensors
        return grad @ ctx.read(grad.dtype, *stored), None, None, *(None for _ in stored)


def frozen_product(x: Tensor, bias: Tensor | None, read: Callable[..., Tensor], *stored: Tensor) -> Tensor:
    """FrozenProduct, in autocast's number format where it is on (torch does not do that for functions of others)."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return FrozenProduct.apply(x, bias, read, *stored)


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose weight is kept in 8 or 4 bits.

    A true nn.Linear for whoever asks (peft does), whose `weight` is the whole weight again, made when read; writing
    into it is lost, assigning to it quantises anew.
    """

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        """Take over `layer`; `kind` is one of KINDS."""
        nn.Module.__init__(self)  # not nn.Linear's: it would make a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind, self.dtype = kind, layer.weight.dtype
        self.bias = layer.bias
        self.training = layer.training
        for name in ("codes", "scales"):
            self.register_buffer(name, None)
        self.codes: Tensor
        """(out, in) int8 or the bits of fp8 as uint8; nf4: (out * in / 2, 1) uint8. Whole numbers, so that
        `module.to(dtype)` leaves them as they are."""
        self.scales: Tensor
        """(out, 1) for fp8 and int8, (out * in / 64,) for nf4."""
        self.weight = layer.weight

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in) the weight as it acts, in the number format it came in."""
        return self._read(self.dtype, self.codes, self.scales)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":  # a setter would not be asked: nn.Module takes parameters to itself
            self.codes, self.scales = KINDS[self.kind][0](value.detach())
        else:
            super().__setattr__(name, value)

    def _read(self, dtype: torch.dtype, codes: Tensor, scales: Tensor) -> Tensor:
        with torch.no_grad():
            return KINDS[self.kind][1](codes, scales, (self.out_features, self.in_features)).to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out); gradients flow to the input only."""
        return frozen_product(input, self.bias, self._read, self.codes, self.scales)

    def extra_repr(self) -> str:
        """For print(network)."""
        return f"{super().extra_repr()}, kind={self.kind}"


def quantize(network: nn.Module, kind: str) -> int:
    """Put every frozen linear layer of `network` in `kind` (fp8, int8, nf4); returns how many.

    Call it before an adapter is put in: what asks for gradients, and what is quantised already, is left alone.
    """
    if kind == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "run.quantize nf4 needs the package bitsandbytes, which is not installed.",
            "Run `pip install bitsandbytes`, or choose fp8 or int8, which need nothing.",
        )
    found = [
        (parent, name, layer)
        for parent in list(network.modules())
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and not any(p.requires_grad for p in layer.parameters())
    ]
    if kind == "nf4":
        found = [entry for entry in found if entry[2].weight.numel() % NF4_BLOCK == 0]
    for parent, name, layer in found:
        parent._modules[name] = QuantizedLinear(layer, kind)  # not setattr: the parent may be a ModuleList
    return len(found)


# --- the kinds: (weight) -> (codes, scales), and back in fp32 or the scales' format ----------------------------------


def _row_scales(weight: Tensor, largest: float) -> Tensor:
    """(out, 1) fp32: one scale for each row, so that its largest weight is the largest code."""
    return (weight.float().abs().amax(1, keepdim=True) / largest).clamp_min(torch.finfo(torch.float32).tiny)


def _to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = _row_scales(weight, FP8_MAX)
    scaled = (weight.float() / scales).clamp(-FP8_MAX, FP8_MAX)  # beyond the largest number fp8 knows only NaN
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8), scales


def _from_fp8(codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    return codes.view(torch.float8_e4m3fn).to(scales.dtype).mul_(scales)


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = _row_scales(weight, INT8_MAX)
    return (weight.float() / scales).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scales


def _from_int8(codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    return codes.to(scales.dtype).mul_(scales)


@functools.cache
def _nf4() -> Any:
    import bitsandbytes.functional  # an extra: imported only where it is wanted

    return bitsandbytes.functional


def _to_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    codes, state = _nf4().quantize_4bit(weight.float().contiguous(), blocksize=NF4_BLOCK, quant_type="nf4")
    return codes, state.absmax


def _from_nf4(codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    state = _nf4().QuantState(
        absmax=scales,
        shape=torch.Size(shape),
        dtype=scales.dtype,
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        code=_nf4().get_4bit_type("nf4", device=codes.device),
    )
    return _nf4().dequantize_4bit(codes, state)


KINDS: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., Tensor]]] = {
    "fp8": (_to_fp8, _from_fp8),
    "int8": (_to_int8, _from_int8),
    "nf4": (_to_nf4, _from_nf4),
}
