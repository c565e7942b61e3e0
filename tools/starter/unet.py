"""Trains the UNet on cached latents, with the text encoder frozen. Stops at the time in the work folder's `deadline`.

    python -m tools.starter.unet 3600       # seconds; goes on from unet.pt if there is one
    torchrun --nproc-per-node 2 -m tools.starter.unet 3600      # one thread on each of two cores

`deadline` (unix time) can be rewritten while it runs; the rate falls to zero over the last fifth of the time.
"""

import math
import random
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F

from .common import Average, Muon, rank, save, set_rate, start, sum_over_processes, world_size
from .config import CONFIG, WORK
from .data import load, tags_of
from .text import Captions, load_tokenizer

SHEET_PROMPTS = (
    "voxel art, blue hair, long hair, light skin, smile, red shirt, yellow background",
    "voxel art, pink hair, spiky hair, dark skin, open mouth, glasses, white shirt, green background",
    "voxel art, black hair, mohawk, tan skin, frown, sunglasses, blue shirt, pink background",
    "voxel art, red hair, bob cut, light skin, smile, star eyes, freckles, black shirt, white background",
    "pixel art, blonde hair, long hair, light skin, smile, blue shirt, purple background",
    "pixel art, green hair, hair bun, tan skin, frown, glasses, red shirt, orange background",
    "pixel art, brown hair, mohawk, dark skin, open mouth, yellow shirt, blue background",
    "pixel art, black hair, curly hair, light skin, smile, sunglasses, green shirt, grey background",
    "comic style, pink hair, long hair, light skin, smile, yellow shirt, blue background",
    "comic style, blue hair, hair bun, dark skin, frown, glasses, white shirt, orange background",
    "comic style, red hair, short hair, tan skin, open mouth, purple shirt, green background",
    "comic style, green hair, curly hair, light skin, smile, sunglasses, black shirt, pink background",
    "ink style, purple hair, bob cut, light skin, smile, yellow background",
    "ink style, blonde hair, curly hair, dark skin, frown, glasses, blue background",
    "ink style, red hair, mohawk, tan skin, open mouth, grey background",
    "ink style, black hair, hair bun, light skin, smile, closed eyes, green background",
)


def build() -> torch.nn.Module:
    """An untrained UNet. The caption also shifts and scales every residual block (addition_embed_type)."""
    from diffusers import UNet2DConditionModel

    num = len(CONFIG.unet_channels)
    return UNet2DConditionModel(
        sample_size=CONFIG.size // 4, in_channels=4, out_channels=4, block_out_channels=CONFIG.unet_channels,
        layers_per_block=CONFIG.unet_layers, cross_attention_dim=CONFIG.text_width, norm_num_groups=16,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (num - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (num - 1) + ("UpBlock2D",),
        attention_head_dim=4, resnet_time_scale_shift="scale_shift",
        addition_embed_type="text", addition_embed_type_num_heads=4,
    )  # fmt: skip


def build_scheduler() -> Any:
    """v-prediction down to pure noise: plain backgrounds need a sampler that starts from no signal at all."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def draw_timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform, but a third of them among the noisiest fifth, where colours and layout are decided."""
    uniform = torch.rand(count, generator=generator)
    high = torch.rand(count, generator=generator) < 0.3
    return torch.where(high, 800 + uniform * 200, uniform * 1000).long().clamp(max=999)


def v_loss(
    unet: torch.nn.Module, scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor,
    states: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Loss of each sample: (B, 4, h, w) latents, (B, 77, D) text states -> (B,)."""
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    predicted = unet(noisy, timesteps, encoder_hidden_states=states).sample
    return F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))


@torch.no_grad()
def sample(
    unet: torch.nn.Module, scheduler: Any, states: torch.Tensor, empty: torch.Tensor, num_steps: int = 16,
    guidance: float = 3.0, seed: int = 0,
) -> torch.Tensor:  # fmt: skip
    """(B, 77, D) text states -> (B, 4, h, w) scaled latents."""
    side = CONFIG.size // 4
    x = torch.randn(len(states), 4, side, side, generator=torch.Generator().manual_seed(seed)).to(states.device)
    both = torch.cat([empty.expand_as(states), states])
    scheduler.set_timesteps(num_steps)
    for t in scheduler.timesteps:
        without, with_text = unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
        x = scheduler.step(without + guidance * (with_text - without), t, x).prev_sample
    return x


def write_sheet(unet: torch.nn.Module, parts: dict[str, Any], path: Any, seed: int = 0) -> None:
    """Pictures of SHEET_PROMPTS, three times enlarged."""
    from PIL import Image

    captions = [prompt.split(", ") for prompt in SHEET_PROMPTS]
    ids, _ = parts["captions"].batch([*captions, []], None)
    with torch.no_grad():
        states = parts["text"](ids.to(CONFIG.device)).last_hidden_state
        latents = sample(unet, build_scheduler(), states[:-1], states[-1:], seed=seed)
        images = parts["vae"].decode(latents / parts["vae"].config.scaling_factor).sample.clamp(-1, 1)
    grid = images.add(1).mul(127.5).byte().permute(0, 2, 3, 1).cpu().reshape(2, 8, CONFIG.size, CONFIG.size, 3)
    page = grid.permute(0, 2, 1, 3, 4).reshape(2 * CONFIG.size, 8 * CONFIG.size, 3).numpy()
    Image.fromarray(page).resize((24 * CONFIG.size, 6 * CONFIG.size), Image.Resampling.NEAREST).save(path)


def load_parts() -> dict[str, Any]:
    """Frozen VAE, text encoder and caption maker."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    return {
        "vae": AutoencoderKL.from_pretrained(WORK / "vae").to(CONFIG.device).eval(),
        "text": CLIPTextModel.from_pretrained(WORK / "text_encoder").to(CONFIG.device).eval(),
        "captions": Captions(load_tokenizer()),
    }


def agreed(number: float) -> float:
    """The first process's number, for clocks and files that the processes read at different moments."""
    told = torch.tensor([number if rank() == 0 else 0.0], dtype=torch.float64)
    sum_over_processes([told])
    return float(told)


def rate(now: float, began: float, deadline: float, step: int) -> float:
    """Warm up, stay, fall to zero in the last part of the time."""
    left = (deadline - now) / max(1.0, deadline - began)
    return min(1.0, step / 100, max(0.0, left / CONFIG.anneal_fraction))


def train(seconds: float) -> None:
    """The loop. Every two minutes a checkpoint, every five a sheet."""
    start()
    parts = load_parts()
    cached = torch.load(WORK / "latents.pt", weights_only=True)
    scale = parts["vae"].config.scaling_factor
    every = [tags_of(attributes) for attributes in load("train")[1]]
    unet = build().to(CONFIG.device, memory_format=torch.channels_last).train()
    optimizer = Muon([unet], CONFIG.unet_lr, CONFIG.unet_adam_lr)
    average = Average(unet, CONFIG.unet_ema)
    scheduler = build_scheduler()
    generator, rng = torch.Generator().manual_seed(CONFIG.seed), random.Random(CONFIG.seed + rank())
    step, began = 0, time.time()
    if (WORK / "unet.pt").exists():
        state = torch.load(WORK / "unet.pt", weights_only=True)
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights, average.steps = state["average"], state["step"]
        generator.set_state(state["generator"])
        rng.setstate(state["rng"])
        step, began = state["step"], time.time() - state["elapsed"]
    (WORK / "deadline").write_text(str(time.time() + seconds))
    if world_size() > 1:
        generator.manual_seed(1000 * step + rank())  # each process its own pictures and noise
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters, from step {step}", flush=True)

    def keep(with_sheet: bool) -> None:
        if rank() > 0:
            return
        save(WORK / "unet.pt", {
            "unet": unet.state_dict(), "average": average.weights, "optimizer": optimizer.state_dict(), "step": step,
            "elapsed": time.time() - began, "generator": generator.get_state(), "rng": rng.getstate(),
        })  # fmt: skip
        if with_sheet:
            shown = build().eval()
            shown.load_state_dict(average.weights)
            write_sheet(shown.to(CONFIG.device), parts, WORK / f"sheet_{step:06}.png")

    order: list[int] = []
    losses: list[float] = []
    saved = shown = time.time()
    deadline = time.time() + seconds
    while (now := agreed(time.time())) < deadline:
        set_rate(optimizer, rate(now, began, deadline, step))
        if len(order) < CONFIG.unet_batch:
            order += torch.randperm(len(every), generator=generator).tolist()
        chosen, order = order[: CONFIG.unet_batch], order[CONFIG.unet_batch :]
        tags = [[] if rng.random() < CONFIG.caption_drop else every[i] for i in chosen]
        with torch.no_grad():
            ids, _ = parts["captions"].batch(tags, rng)
            states = parts["text"](ids.to(CONFIG.device)).last_hidden_state
        mean, std = cached["mean"][chosen].float(), cached["std"][chosen].float()
        latents = ((mean + std * torch.randn(mean.shape, generator=generator)) * scale).to(CONFIG.device)
        noise = torch.randn(mean.shape, generator=generator).to(CONFIG.device)
        timesteps = draw_timesteps(len(chosen), generator).to(CONFIG.device)
        with torch.autocast(CONFIG.device, torch.bfloat16, enabled=CONFIG.autocast):
            loss = v_loss(unet, scheduler, latents, noise, timesteps, states).mean()
        assert math.isfinite(loss.item()), f"loss is {loss.item()} at step {step}"
        optimizer.zero_grad()
        loss.backward()
        sum_over_processes([p.grad.div_(world_size()) for p in unet.parameters()])
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average.update(unet)
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            if rank() == 0:
                print(f"{step} {now - began:.0f}s loss {sum(losses[-50:]) / 50:.4f}", flush=True)
            deadline = agreed(float((WORK / "deadline").read_text()))
        if now - saved > 120:
            keep(with_sheet=now - shown > 240)
            saved, shown = now, now if now - shown > 240 else shown
    keep(with_sheet=True)


if __name__ == "__main__":
    train(float(sys.argv[1]))
