"""The target test: what the sampler turns into the training picture is the answer that has loss zero."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

KINDS = ["base", "epsilon_base", "sd2_base", "sdxl_base", "sdxl_velocity_base"]


class Oracle(nn.Module):
    """Answers so that the sampler, asked from any level, lands on `latents`. Knows the sampler only by probing it."""

    def __init__(self, scheduler, latents: Tensor) -> None:
        super().__init__()
        self.scheduler, self.latents = scheduler, latents

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor, **conditions: object) -> tuple[Tensor]:
        answers = []
        for sample, timestep, goal in zip(noisy.double(), timesteps.tolist(), self.latents.double(), strict=True):
            zero, one = torch.zeros_like(sample), torch.ones_like(sample)
            at_zero = self.scheduler.step(zero, timestep, sample).pred_original_sample
            at_one = self.scheduler.step(one, timestep, sample).pred_original_sample
            answers.append((goal - at_zero) / (at_one - at_zero))  # the sampler's guess is linear in the answer
        return (torch.stack(answers).float(),)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_the_sampler_needs_has_loss_zero(kind: str, open_base: Callable) -> None:
    family = open_base(kind)
    scheduler = family.sampler("ddim")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(1000)
    chance = torch.Generator().manual_seed(7)
    timesteps = torch.tensor([3, 250, 600, 990])
    latents = family.encode_images(torch.rand(4, 3, 32, 32, generator=chance) * 2 - 1)
    noise = torch.randn(latents.shape, generator=chance)
    text = family.encode_text(["a"] * 4, 1)
    frames = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 4)

    def errors() -> Tensor:
        answer = family.predict(family.add_noise(latents, noise, timesteps), timesteps, text, frames)
        return (answer - family.target(latents, noise, timesteps)).square().mean(dim=(1, 2, 3))

    honest = errors()
    family._parts["unet"] = Oracle(scheduler, latents)
    assert honest.min() > 0.01
    assert errors().max() < 1e-5


def test_the_schedule_ends_in_pure_noise_when_the_base_says_so(open_base: Callable) -> None:
    last = torch.tensor([999])
    latents, noise = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 2.0)
    zero, classic = open_base("base"), open_base("epsilon_base")
    assert torch.equal(zero.add_noise(latents, noise, last), noise)
    assert torch.equal(zero.target(latents, noise, last), -latents)
    assert not torch.equal(classic.add_noise(latents, noise, last), noise)
    assert torch.equal(classic.target(latents, noise, last), noise)
