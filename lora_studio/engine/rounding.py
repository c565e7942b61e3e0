"""Weights kept in 16 bits that still learn: every step is computed in 32 bits and rounded by chance.

A bf16 weight has 8 bits of precision, so a step of less than about 1/512 of it would be rounded away each time. Rounded
up or down by chance, in proportion to what lies between, it arrives on average.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lora_studio.engine import noise

_LOW = 1 << 16  # the lower half of a float32's bits is what bfloat16 lacks


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    """float32 of any shape -> bfloat16: one of the two neighbours, with chances such that the mean is the value.

    The upper half of a float32 is the bfloat16 nearer to zero; a random number added to the lower half carries over
    into the upper with just the wanted chance.
    """
    chance = torch.randint(0, _LOW, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    rounded = (values.contiguous().view(torch.int32) + chance) & -_LOW
    # A NaN with all bits set would overflow into a zero.
    return torch.where(values.isfinite(), rounded.view(torch.float32), values).to(torch.bfloat16)


class StochasticBF16:
    """An optimizer over bfloat16 parameters that sees them, and keeps its memory, in 32 bits.

    The 32-bit weights and gradients are there during `step` only (8 bytes a parameter). Against master weights kept
    throughout, that is 4 bytes a parameter less while pictures go through the network, when memory counts, and no more
    during the step. The chance comes from (seed, number of the step), which is kept in the first parameter group.
    """

    def __init__(self, optimizer: Optimizer, seed: int) -> None:
        self.inner = optimizer
        self.kind: str = getattr(optimizer, "kind", type(optimizer).__name__)
        self._seed = seed
        self.param_groups[0].setdefault("rounded_steps", 0)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.inner.param_groups

    @property
    def state(self) -> dict[Any, Any]:
        return self.inner.state

    def step(self) -> None:
        """One step in 32 bits; the gradients are used up by it."""
        first = self.param_groups[0]
        first["rounded_steps"] += 1
        seed = noise.generator(self._seed, "rounding", first["rounded_steps"]).initial_seed()
        chance = torch.Generator(first["params"][0].device).manual_seed(seed)
        with self._widened(lambda values: round_stochastically(values, chance)):
            self.inner.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def train(self) -> None:
        """Schedule-free optimizers: the weights to train with."""
        with self._widened(lambda values: values.to(torch.bfloat16)):
            self.inner.train()

    def eval(self) -> None:
        """Schedule-free optimizers: the weights to use."""
        with self._widened(lambda values: values.to(torch.bfloat16)):
            self.inner.eval()

    @contextmanager
    def _widened(self, narrow: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """All bfloat16 parameters and gradients in 32 bits, then the parameters back in their own memory."""
        kept = []
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter.dtype == torch.bfloat16:
                kept.append((parameter, parameter.data))
                gradient, parameter.grad = parameter.grad, None
                parameter.data = parameter.data.float()
                parameter.grad = None if gradient is None else gradient.float()
        try:
            yield
        finally:
            for parameter, own in kept:
                own.copy_(narrow(parameter.data))
                parameter.grad = None
                parameter.data = own
