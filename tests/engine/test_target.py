"""The target test: what the sampler turns into the training picture is the answer that has loss zero."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lora_studio.engine.train import prepare


class Oracle(nn.Module):
    """Answers so that the sampler, asked from any level, lands on `latents`. Knows the sampler only by probing it."""

    def __init__(self, scheduler, latents: Tensor) -> None:
        super().__init__()
        self.scheduler, self.latents = scheduler, latents

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        answers = []
        for sample, timestep, goal in zip(noisy.double(), timesteps.tolist(), self.latents.double(), strict=True):
            zero, one = torch.zeros_like(sample), torch.ones_like(sample)
            at_zero = self.scheduler.step(zero, timestep, sample).pred_original_sample
            at_one = self.scheduler.step(one, timestep, sample).pred_original_sample
            answers.append((goal - at_zero) / (at_one - at_zero))  # the sampler's guess is linear in the answer
        return (torch.stack(answers).float(),)


@pytest.mark.parametrize("kind", ["velocity", "epsilon"])
def test_the_answer_the_sampler_needs_has_loss_zero(
    kind: str, base: Path, epsilon_base: Path, make_job: Callable, context
) -> None:
    from lora_studio.engine.config import TrainJob

    trainer = prepare(TrainJob.load(make_job(model=base if kind == "velocity" else epsilon_base)), context)
    family = trainer.family
    scheduler = family.sampler("ddim")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(1000)
    timesteps = torch.tensor([3, 250, 600, 990])
    latents = torch.stack(list(trainer.latents.values()))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
    captions = ["a"] * 4
    honest = trainer.error(latents, noise, timesteps, captions)
    family._parts["unet"] = Oracle(scheduler, latents)
    perfect = trainer.error(latents, noise, timesteps, captions)
    assert honest.min() > 0.01
    assert perfect.max() < 1e-5


def test_the_schedule_ends_in_pure_noise_when_the_base_says_so(base: Path, epsilon_base: Path) -> None:
    from lora_studio.engine.families import open_family

    last = torch.tensor([999])
    latents, noise = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 2.0)
    zero, classic = (open_family(path, torch.device("cpu"), torch.float32) for path in (base, epsilon_base))
    assert torch.equal(zero.add_noise(latents, noise, last), noise)
    assert torch.equal(zero.target(latents, noise, last), -latents)
    assert not torch.equal(classic.add_noise(latents, noise, last), noise)
    assert torch.equal(classic.target(latents, noise, last), noise)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_follow_the_paper(gamma: float, base: Path, epsilon_base: Path) -> None:
    from lora_studio.engine.families import open_family

    steps = torch.tensor([0, 200, 500, 900, 999])
    for path, divide in ((epsilon_base, lambda snr: snr), (base, lambda snr: snr + 1)):
        family = open_family(path, torch.device("cpu"), torch.float32)
        kept = family.alphas_cumprod[steps].double()
        snr = kept / (1 - kept)
        wanted = snr.clamp(max=gamma) / divide(snr)
        assert torch.allclose(family.snr_weights(steps, gamma).double(), wanted, rtol=1e-4)
        assert torch.equal(family.snr_weights(steps, 0), torch.ones(5))
