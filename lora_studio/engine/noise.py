"""The chance in a training step. Every draw is a function of (seed, step, place), so nothing about it needs saving."""

import hashlib

import torch
from torch import Tensor


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator of its own for this place of the run; the same place always draws the same."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def draw_noise(shape: tuple[int, ...], offset: float, generator: torch.Generator) -> Tensor:
    """(B, C, h, w) standard normal; `offset` adds to each channel one draw for the whole picture."""
    noise = torch.randn(shape, generator=generator)
    if offset:
        noise += offset * torch.randn((shape[0], shape[1], 1, 1), generator=generator)
    return noise
