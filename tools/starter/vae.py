"""Trains the autoencoder: 64 px -> 16 x 16 x 4 numbers and back.

python -m tools.starter.vae             # trains; then encodes the training images
"""

import os
import time

import torch
import torch.nn.functional as F

from .common import Muon, set_rate, start
from .config import CONFIG, WORK
from .data import load


def build() -> torch.nn.Module:
    """An untrained AutoencoderKL with a start that lets the signal through."""
    from diffusers import AutoencoderKL

    num = len(CONFIG.vae_channels)
    vae = AutoencoderKL(
        block_out_channels=CONFIG.vae_channels, layers_per_block=1, norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * num, up_block_types=("UpDecoderBlock2D",) * num,
        sample_size=CONFIG.size, mid_block_add_attention=False,
    )  # fmt: skip
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -5.0  # a posterior std of 1 would hide the signal
        for name, p in vae.named_parameters():
            if name.endswith("conv2.weight"):
                p.mul_(0.1)  # residual branches start small
    return vae


def loss_of(vae: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, H, W) -> loss and L1. Edges count twice: they carry the small features."""
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    l1 = F.l1_loss(decoded, images)
    edges = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (2, 3))
    return l1 + 0.5 * edges + 2e-4 * posterior.kl().mean() / images[0, 0].numel(), l1.detach()


def to_tensor(images: object) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in -1..1."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def crops(images: torch.Tensor, side: int) -> torch.Tensor:
    """One random crop of each image, the same place for all of a batch."""
    y, x = (int(torch.randint(0, images.shape[-1] - side + 1, ())) for _ in range(2))
    return images[..., y : y + side, x : x + side]


def psnr(vae: torch.nn.Module, images: torch.Tensor) -> float:
    """Of the reconstruction from the posterior's mean, in dB for values 0..1."""
    with torch.no_grad():
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    return float(-10 * torch.log10(((decoded - images) / 2).square().mean()))


def train() -> torch.nn.Module:
    """Random crops for three quarters of the time, whole images afterwards."""
    began = start()
    images, _ = load("train")
    heldout = to_tensor(load("heldout")[0][:128]).to(CONFIG.device)
    vae = build().to(CONFIG.device, memory_format=torch.channels_last).train()
    optimizer = Muon([vae], CONFIG.vae_lr, 3e-3)
    generator = torch.Generator().manual_seed(CONFIG.seed)
    budget = float(os.environ.get("STARTER_SECONDS", CONFIG.vae_seconds))
    step = 0
    while (share := (time.monotonic() - began) / budget) < 1:
        set_rate(optimizer, min(1, step / 20) * min(1.0, (1 - share) / 0.5))
        small = share < 0.75
        chosen = torch.randint(0, len(images), (CONFIG.vae_batch * (2 if small else 1),), generator=generator)
        batch = to_tensor(images[chosen.numpy()]).to(CONFIG.device)
        batch = crops(batch, CONFIG.size // 2) if small else batch
        loss, l1 = loss_of(vae, batch.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"{step} {time.monotonic() - began:.0f}s l1 {l1:.4f} psnr {psnr(vae, heldout):.2f}", flush=True)
    return vae.eval()


def encode_all(vae: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and stds of the posterior of every training image, each (N, 4, H/4, W/4) in half precision."""
    images, _ = load("train")
    means, stds = [], []
    with torch.no_grad():
        for first in range(0, len(images), 100):
            posterior = vae.encode(to_tensor(images[first : first + 100]).to(CONFIG.device)).latent_dist
            means.append(posterior.mean.half().cpu())
            stds.append(posterior.std.half().cpu())
    return torch.cat(means), torch.cat(stds)


def main() -> None:
    """Train, encode, measure the scale that makes latents of unit size."""
    vae = train()
    heldout = to_tensor(load("heldout")[0][:256]).to(CONFIG.device)
    print(f"held-out psnr {psnr(vae, heldout):.2f}")
    means, stds = encode_all(vae)
    vae.register_to_config(scaling_factor=round(1 / float(means.float().std()), 4))
    vae.save_pretrained(WORK / "vae")
    torch.save({"mean": means, "std": stds}, WORK / "latents.pt")
    print("scale", vae.config.scaling_factor, "channel means", means.float().mean((0, 2, 3)).tolist())


if __name__ == "__main__":
    main()
