"""Blocks of the frozen network in main memory, each brought to the device just before it is needed.

A block's frozen weights never change, so letting them go is free: only the way to the device costs, and on a GPU the
next block travels on a stream of its own while the present one is computed. Trained weights stay on the device.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from lora_studio.engine.quantize import frozen_product

UNET_BLOCKS = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|attentions)\.\d+")


class OffloadedLinear(nn.Linear):
    """A linear layer whose weight may leave the device between the forward and the backward pass."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return frozen_product(input, self.bias, _as_is, self.weight)


def _as_is(dtype: torch.dtype, weight: Tensor) -> Tensor:
    return weight.to(dtype)


class Block:
    """One block's frozen tensors: always in main memory (`home`), now and then on the device too."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        for layer in module.modules():
            if type(layer) is nn.Linear and not any(p.requires_grad for p in layer.parameters()):
                layer.__class__ = OffloadedLinear
        self.device = device
        self.tensors = frozen_tensors(module)
        pin = device.type == "cuda"  # only pinned memory travels beside the computation
        self.home = [t.detach().cpu().pin_memory() if pin else t.detach().cpu() for t in self.tensors]
        self.copies: list[Tensor] = []
        self.leave()

    @property
    def on_device(self) -> bool:
        """Whether its weights are there, or on their way."""
        return bool(self.copies)

    def leave(self) -> None:
        """Free the device's copy. Shape, format and device of the tensors stay; to read them now gives NaN."""
        self.copies = []
        for tensor, home in zip(self.tensors, self.home, strict=True):
            fill = float("nan") if home.is_floating_point() else torch.iinfo(home.dtype).max
            tensor.data = torch.full((), fill, dtype=home.dtype, device=self.device).expand(home.shape)

    def set_out(self, stream: Any) -> None:
        """Begin the way to the device, on `stream` where there is one."""
        # Memory is taken on the computing stream, which also frees it; the copy waits for what was queued there.
        self.copies = [torch.empty_like(home, device=self.device) for home in self.home]
        if stream is None:
            self._copy()
        else:
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                self._copy()

    def arrive(self, stream: Any) -> None:
        """Wait for the copy and compute with it from now on."""
        if stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(stream)
        for tensor, copy in zip(self.tensors, self.copies, strict=True):
            tensor.data = copy

    def _copy(self) -> None:
        for copy, home in zip(self.copies, self.home, strict=True):
            copy.copy_(home, non_blocking=True)


class Offloaded:
    """The blocks of a network that come and go: at most the one computed and the next are on the device."""

    def __init__(self, network: nn.Module, modules: list[nn.Module], device: torch.device) -> None:
        self.blocks = [Block(module, device) for module in modules]
        self.fetches = self.unforeseen = 0
        """How often a block was brought, and how often of these not before it was needed."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._order: list[Block] = []  # as the forward pass goes; known after the first
        self._ahead = 1
        network.register_forward_pre_hook(lambda *_: self._forward_begins())
        for module, block in zip(modules, self.blocks, strict=True):
            module.register_forward_pre_hook(lambda *_, block=block: self._need(block))
            module.register_forward_hook(lambda _, __, answer, block=block: self._watch(block, answer))

    @property
    def bytes(self) -> int:
        """Bytes that need not be on the device."""
        return sum(nbytes(block.home) for block in self.blocks)

    def leave(self) -> None:
        """Free the device of all blocks, e.g. before the VAE decodes."""
        for block in self.blocks:
            block.leave()

    def _forward_begins(self) -> None:
        self._ahead = 1

    def _watch(self, block: Block, answer: Any) -> None:
        """Have the block fetched again as soon as the gradient of its answer is there."""
        for tensor in (
            answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple) else [answer]
        ):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _, block=block: self._backward_reaches(block))

    def _backward_reaches(self, block: Block) -> None:
        self._ahead = -1
        self._need(block)

    def _need(self, block: Block) -> None:
        """Bring the block, send for its neighbour, let go of all others."""
        if block not in self._order:
            self._order.append(block)
        self.unforeseen += not block.on_device
        self._fetch(block)
        place = self._order.index(block) + self._ahead
        neighbour = self._order[place] if 0 <= place < len(self._order) else None
        for other in self.blocks:
            if other.on_device and other is not block and other is not neighbour:
                other.leave()
        block.arrive(self._stream)
        if neighbour is not None:
            self._fetch(neighbour)

    def _fetch(self, block: Block) -> None:
        if not block.on_device:
            block.set_out(self._stream)
            self.fetches += 1


def offload_blocks(network: nn.Module, count: int, device: torch.device) -> Offloaded:
    """Keep the `count` largest blocks of `network` in main memory. Call it when the adapter is in its place."""
    largest = sorted(big_blocks(network), key=lambda block: nbytes(frozen_tensors(block)), reverse=True)[:count]
    return Offloaded(network, largest, device)


def big_blocks(network: nn.Module) -> list[nn.Module]:
    """The residual and attention blocks of a UNet; of another network the items of its outer module lists."""
    blocks = [module for name, module in network.named_modules() if UNET_BLOCKS.fullmatch(name)]
    return blocks or [item for child in network.children() if isinstance(child, nn.ModuleList) for item in child]


def frozen_tensors(module: nn.Module) -> list[Tensor]:
    """Parameters that are not trained, and buffers."""
    return [tensor for tensor in [*module.parameters(), *module.buffers()] if not tensor.requires_grad]


def nbytes(tensors: list[Tensor]) -> int:
    """Bytes that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
