"""Every number of the starter recipe, in one place. A GPU run changes `GPU` below and nothing else.

The two runs differ only in what is named here: `STARTER_RUN=gpu` picks the second one.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets" / "starter"
WORK = Path(os.environ.get("STARTER_WORK", ROOT.parent / "starter-work"))
"""Datasets, checkpoints and logs. Never in git."""


@dataclass(frozen=True)
class Config:
    """One recipe: sizes of the data, the networks and the runs."""

    size: int = 64
    """Pixels a side. The VAE shrinks it by 4, so the UNet sees 16 x 16."""
    num_images: int = 24_000
    num_heldout: int = 1_000
    seed: int = 1

    vae_channels: tuple[int, ...] = (16, 32, 64)
    vae_batch: int = 6
    vae_seconds: int = 540
    vae_lr: float = 0.02

    text_width: int = 128
    text_layers: int = 2
    text_seconds: int = 150
    text_batch: int = 64
    num_merges: int = 1024
    """Merges of the CLIP vocabulary kept for words that the data does not use."""

    unet_channels: tuple[int, ...] = (48, 96, 160)
    unet_layers: int = 1
    unet_batch: int = 24
    unet_lr: float = 0.02
    unet_adam_lr: float = 2e-3
    unet_ema: float = 0.998
    anneal_fraction: float = 0.2
    """Share of the time budget in which the rate falls to zero, at its end."""
    caption_drop: float = 0.1
    tag_drop: float = 0.1

    tagger_width: int = 128
    tagger_layers: int = 4
    tagger_dim: int = 256
    tagger_batch: int = 32
    tagger_seconds: int = 3300
    tagger_images: int = 24_000

    device: str = "cpu"
    autocast: bool = False
    threads: int = 1


CPU = Config()
GPU = replace(
    CPU, size=64, num_images=200_000, vae_channels=(32, 64, 128), vae_batch=128, vae_seconds=240,
    text_batch=512, unet_channels=(64, 128, 256), unet_layers=2, unet_batch=512, tagger_width=192,
    tagger_batch=512, tagger_seconds=240, tagger_images=200_000, device="cuda", autocast=True, threads=8,
)  # fmt: skip
"""Untried: nobody has run it yet. Set size=128 and four vae_channels to get 128 px pictures from the same UNet."""

CONFIG = GPU if os.environ.get("STARTER_RUN") == "gpu" else CPU
