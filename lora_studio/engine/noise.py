"""The chance in a training step. Every draw is a function of (seed, step, place), so nothing about it needs saving.

Draws are made on the CPU and moved by the caller, so that every device gets the same ones. Several processes draw the
noise of the whole batch and take their own rows of it.
"""

import hashlib

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lora_studio.engine.config import ObjectiveConfig


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator of its own for this place of the run; the same place always draws the same."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def draw_noise(shape: tuple[int, ...], config: ObjectiveConfig | None, generator: torch.Generator) -> Tensor:
    """(B, C, h, w) noise. Standard normal; with `config`, also its noise offset and coarser noise (multires).

    The offset adds to each channel one draw for the whole picture. `None` is plain noise, for validation.
    """
    noise = torch.randn(shape, generator=generator)
    if config is None:
        return noise
    if config.noise_offset:
        noise += config.noise_offset * torch.randn((shape[0], shape[1], 1, 1), generator=generator)
    if config.multires_iterations:
        noise = _pyramid(noise, config.multires_iterations, config.multires_discount, generator)
    return noise


def _pyramid(noise: Tensor, iterations: int, discount: float, generator: torch.Generator) -> Tensor:
    """Multi-resolution noise (J. Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training").

    To noise (B, C, h, w) are added draws of lower and lower size, enlarged: the i-th is smaller than the one before by
    r^i with r drawn anew from 2 to 4, and counts discount^i. Ends early at one row or column. Unit std over the whole.
    """
    batch, channels, height, width = noise.shape
    rows, columns = height, width
    for level in range(iterations):
        ratio = 2 + 2 * torch.rand((), generator=generator).item()
        rows, columns = max(1, int(rows / ratio**level)), max(1, int(columns / ratio**level))
        coarse = torch.randn((batch, channels, rows, columns), generator=generator)
        noise = noise + discount**level * interpolate(coarse, size=(height, width), mode="bilinear")
        if rows == 1 or columns == 1:
            break
    return noise / noise.std()


def perturb(noise: Tensor, config: ObjectiveConfig, generator: torch.Generator) -> Tensor:
    """The noise that is put into the picture shown to the network, while `noise` itself stays what it shall find.

    Input perturbation (Ning et al. 2023): noise + strength * another draw. Draws nothing when it is off.
    """
    if not config.input_perturbation:
        return noise
    more = torch.randn(noise.shape, generator=generator).to(noise.device, noise.dtype)
    return noise + config.input_perturbation * more
