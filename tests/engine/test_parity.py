"""The same numbers as diffusers: its LoRA recipes for SD and SDXL, its noise schedules, its reading of prompts.

The recipes are told here again in our own words, on diffusers' classes: take timesteps and noise, let DDPMScheduler mix
them into the latents, ask the UNet, compare with the noise (or the velocity), mean of the squares.
"""

import json
from collections.abc import Callable
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

CAPTIONS = ["zorbi, blue hair, smile", "a red cat"]
FRAMES = torch.tensor([[480, 640, 0, 16, 32, 32], [1333, 999, 8, 0, 32, 32]])
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
KINDS = ["base", "epsilon_base", "sd2_base", "sdxl_base", "sdxl_velocity_base"]


def add_lora(network: torch.nn.Module, targets: list[str]) -> None:
    """A LoRA that is not empty, the same whenever called."""
    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=targets))
    chance = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=chance) * 0.1


def gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    """By name; SDXL reads the last layer but one, so the last one of its encoders gets none."""
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def given() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, noise and timesteps."""
    chance = torch.Generator().manual_seed(5)
    pixels = torch.rand(2, 3, 32, 32, generator=chance) * 2 - 1
    return pixels, torch.randn(2, 4, 8, 8, generator=chance), torch.tensor([17, 640])


def words_of(path: Path, name: str) -> Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(path / name)
    return tokenizer(
        CAPTIONS, max_length=tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids


def diffusers_loss(path: Path, unet: torch.nn.Module, encoder: torch.nn.Module, xl: bool) -> Tensor:
    """The loss of diffusers' recipe on the base at `path`."""
    pixels, noise, timesteps = given()
    vae = AutoencoderKL.from_pretrained(path / "vae")
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    scheduler = DDPMScheduler.from_pretrained(path / "scheduler")
    noisy = scheduler.add_noise(latents, noise, timesteps)
    if xl:
        second = CLIPTextModelWithProjection.from_pretrained(path / "text_encoder_2")
        one = encoder(words_of(path, "tokenizer"), output_hidden_states=True)
        two = second(words_of(path, "tokenizer_2"), output_hidden_states=True)
        states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        added = {"text_embeds": two[0], "time_ids": FRAMES}
        answer = unet(noisy, timesteps, states, added_cond_kwargs=added).sample
    else:
        answer = unet(noisy, timesteps, encoder(words_of(path, "tokenizer"))[0]).sample
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    else:
        target = noise
    return F.mse_loss(answer.float(), target.float(), reduction="mean")


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_diffusers(kind: str, open_base: Callable) -> None:
    family = open_base(kind)
    unet = UNet2DConditionModel.from_pretrained(family.path / "unet")
    encoder = CLIPTextModel.from_pretrained(family.path / "text_encoder")
    for network, targets in (
        (unet, TARGETS),
        (encoder, ["q_proj", "v_proj"]),
        (family.part("unet"), TARGETS),
        (family.part("text_encoder"), ["q_proj", "v_proj"]),
    ):
        add_lora(network, targets)
    wanted = diffusers_loss(family.path, unet, encoder, kind.startswith("sdxl"))
    wanted.backward()

    pixels, noise, timesteps = given()
    latents = family.encode_images(pixels)
    noisy = family.add_noise(latents, noise, timesteps)
    answer = family.predict(noisy, timesteps, family.encode_text(CAPTIONS, 1), FRAMES)
    loss = (answer - family.target(latents, noise, timesteps)).square().mean()
    loss.backward()

    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert wanted.item() > 0.1
    for own, theirs in ((family.part("unet"), unet), (family.part("text_encoder"), encoder)):
        ours, reference = gradients(own), gradients(theirs)
        assert ours.keys() == reference.keys()
        assert max(value.abs().max() for value in reference.values()) > 1e-4
        for name, value in reference.items():
            assert torch.allclose(ours[name], value, atol=1e-6, rtol=1e-4), name


def test_the_frame_reaches_sdxl_in_its_order(open_base: Callable) -> None:
    """diffusers' own order is original size, corner of the cut, target size, each height before width."""
    family = open_base("sdxl_base")
    pipeline = StableDiffusionXLPipeline.from_pretrained(family.path)
    ids = pipeline._get_add_time_ids((480, 640), (0, 16), (32, 32), torch.float32, text_encoder_projection_dim=20)
    assert ids.tolist() == FRAMES[:1].tolist()
    _, noise, timesteps = given()
    text = family.encode_text(CAPTIONS, 1)
    with torch.no_grad():
        plain = family.predict(noise, timesteps, text, FRAMES)
        for place in range(6):
            other = FRAMES.clone()
            other[:, place] += 300
            assert not torch.allclose(family.predict(noise, timesteps, text, other), plain, atol=1e-6), place


@pytest.mark.parametrize("kind", ["epsilon_base", "sdxl_base"])
def test_zero_terminal_snr_is_that_of_the_paper(kind: str, open_base: Callable) -> None:
    """Lin et al. 2023, algorithm 1, told on the shares of the picture: shift the last to zero, keep the first."""
    classic, zero = open_base(kind), open_base(kind, zero_terminal_snr="yes")
    signal = classic.alphas_cumprod.double().sqrt()
    wanted = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    assert torch.allclose(zero.alphas_cumprod.double(), wanted, atol=1e-6)
    assert zero.alphas_cumprod[-1] == 0 and classic.alphas_cumprod[-1] > 0.001
    said = json.loads((classic.path / "scheduler/scheduler_config.json").read_text()) | {"rescale_betas_zero_snr": True}
    assert torch.equal(zero.alphas_cumprod, DDPMScheduler.from_config(said).alphas_cumprod)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_prompts_are_read_as_diffusers_reads_them(kind: str, clip_skip: int, open_base: Callable) -> None:
    family = open_base(kind)
    pipeline = (StableDiffusionXLPipeline if kind.startswith("sdxl") else StableDiffusionPipeline).from_pretrained(
        family.path
    )
    encoder = pipeline.text_encoder
    if clip_skip > 1 and not hasattr(encoder, "text_model"):
        object.__setattr__(encoder, "text_model", encoder)  # diffusers 0.42 looks there, transformers 5 has it no more
    theirs = pipeline.encode_prompt(
        prompt=CAPTIONS[0], device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=True,
        negative_prompt="bad, ugly", clip_skip=clip_skip - 1 or None,
    )  # fmt: skip
    ours = family.conditions([CAPTIONS[0]], "bad, ugly", clip_skip)
    order = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    assert len(theirs) == len(ours)
    for name, value in zip(order, theirs, strict=False):
        if name.startswith("negative") and clip_skip > 1:
            continue  # diffusers never skips layers of the negative prompt
        assert torch.allclose(ours[name], value, atol=1e-6), name
