"""The frozen network spread over all processes by torch's FSDP2 (`torch.distributed.fsdp.fully_shard`).

Each process keeps a part of every block; just before a block is computed, forward and backward, its whole weights are
gathered from all, and let go after. What is trained lies whole on each process, as without. So every pass through the
network needs all processes: what the leader does alone (validation, sample pictures) stands in `Spread.led`.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from lora_studio.core.errors import UserError
from lora_studio.engine.distributed import World, agree

# Gathered one at a time; for SDXL at most 70 MB in bf16. The same as gradient checkpointing computes twice in a UNet.
UNITS = re.compile(r".*\.(resnets|transformer_blocks|downsamplers|upsamplers)\.\d+")


class Spread:
    """A network whose frozen weights lie spread over the processes of a world."""

    def __init__(self, network: nn.Module, trained: list[nn.Parameter], world: World) -> None:
        """Spread all but the `trained` parameters, block by block, so that a network in main memory never lies whole on
        the device. Call it when the adapter is in its place."""
        self.network, self.world = network, world
        mesh = init_device_mesh(world.device.type, (world.size,))
        for parameter in network.parameters():
            parameter.data = parameter.data.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other
        for parameter in trained:
            parameter.data = parameter.data.to(world.device)
        self.units = [module for name, module in network.named_modules() if UNITS.fullmatch(name)] + [network]
        for unit in self.units:
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=set(trained))
        self._order: list[FSDPModule] = []
        """Units as a forward pass gathers them; known after the first."""
        self._gathered: list[FSDPModule] = []
        """Those of the present pass."""
        self._open = self._leading = False
        network.register_forward_pre_hook(lambda *_: self._begin(), prepend=True)
        network.register_forward_hook(lambda *_: self._end())
        for unit in self.units:  # after FSDP2's own hook, which gathers
            unit.register_forward_pre_hook(lambda module, _: self._gathered.append(module))

    @property
    def bytes(self) -> int:
        """Bytes of the spread weights that this process keeps between two passes."""
        parts = [part.to_local() for part in self.network.parameters() if hasattr(part, "to_local")]
        return sum(part.numel() * part.element_size() for part in parts)

    def led(self, work: Callable[[], None], lend: Callable[[], Any]) -> None:
        """The leader does its `work` in its own time, with as many passes through the network as that takes; the others
        make a pass by `lend` for each of them, since each needs their parts."""
        if not self.world.leads:
            while agree(None, self.world):
                lend()
            return
        self._leading = True
        try:
            work()
        finally:
            self._leading = False
            self._finish()
            agree(False, self.world)

    def _begin(self) -> None:
        self._finish()
        if self._leading:
            agree(True, self.world)
        self._open = True
        self._gathered = []

    def _end(self) -> None:
        self._open = False
        self._order = self._order or list(self._gathered)

    def _finish(self) -> None:
        """Take part in what the others still gather when a pass has ended early by an error here (e.g. of memory)."""
        if not self._open:
            return
        if not self._order:
            raise UserError("The first pass through the network failed.", "The error before this one tells why.")
        self._open = False
        for unit in self.units:
            unit.reshard()
        for unit in self._order[len(self._gathered) :]:
            unit.unshard()
            unit.reshard()
