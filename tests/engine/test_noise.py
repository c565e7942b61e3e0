"""The chance in a step: the same place draws the same, each option does what it says."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lora_studio.engine.config import ObjectiveConfig
from lora_studio.engine.noise import draw_noise, generator, perturb

SHAPE = (4, 4, 32, 24)


def drawn(place: int = 0, **settings: Any) -> Tensor:
    return draw_noise(SHAPE, ObjectiveConfig(**settings), generator(1, "step", place))


@pytest.mark.parametrize("settings", [{}, {"noise_offset": 0.1}, {"multires_iterations": 6}])
def test_the_same_place_draws_the_same_and_another_something_else(settings: dict[str, Any]) -> None:
    assert torch.equal(drawn(**settings), drawn(**settings))
    assert not torch.equal(drawn(**settings), drawn(1, **settings))


def test_with_everything_off_it_is_plain_normal_noise() -> None:
    plain = torch.randn(SHAPE, generator=generator(1, "step", 0))
    assert torch.equal(drawn(), plain)
    assert torch.equal(draw_noise(SHAPE, None, generator(1, "step", 0)), plain)


def test_the_first_draws_of_a_place_are_pinned() -> None:
    """They depend on the hash of (seed, place): a change would break resuming runs of earlier versions."""
    found = draw_noise((1, 1, 1, 3), ObjectiveConfig(), generator(42, "step", 1, 0)).flatten().tolist()
    assert found == pytest.approx([-0.486603, 0.419341, 0.434828], abs=1e-5)


def test_the_offset_moves_whole_channels_on_top_of_the_same_noise() -> None:
    moved = drawn(noise_offset=0.5) - drawn()
    torch.testing.assert_close(moved, moved[:, :, :1, :1].expand(SHAPE), atol=1e-5, rtol=0)
    assert moved[:, :, 0, 0].std().item() == pytest.approx(0.5, rel=0.5)


def power(noise: Tensor) -> tuple[float, float]:
    """Mean power of the coarsest waves (without the mean) and of the finest ones."""
    spectrum = torch.fft.fft2(noise).abs().square().mean(dim=(0, 1))
    return spectrum[0:3, 0:3].flatten()[1:].mean().item(), spectrum[14:19, 10:15].mean().item()


def test_multires_noise_is_coarser_but_no_stronger() -> None:
    coarse, fine = power(drawn(multires_iterations=6, multires_discount=0.6))
    plain_coarse, plain_fine = power(drawn())
    assert coarse > 1.5 * plain_coarse and fine < 0.9 * plain_fine
    noise = drawn(multires_iterations=6, multires_discount=0.6)
    assert noise.std().item() == pytest.approx(1.0, abs=1e-5)


def test_multires_noise_is_the_published_sum() -> None:
    """Level by level from the same chance: shrunk by r^i, enlarged, times discount^i, brought back to unit std."""
    chance = generator(7)
    expected = torch.randn((1, 2, 64, 48), generator=chance)
    rows, columns = 64.0, 48.0
    for level in range(3):
        ratio = 2 + 2 * torch.rand((), generator=chance).item()
        rows, columns = float(int(rows / ratio**level)), float(int(columns / ratio**level))
        part = torch.randn((1, 2, int(rows), int(columns)), generator=chance)
        expected += 0.5**level * torch.nn.functional.interpolate(part, (64, 48), mode="bilinear")
    found = draw_noise((1, 2, 64, 48), ObjectiveConfig(multires_iterations=3, multires_discount=0.5), generator(7))
    torch.testing.assert_close(found, expected / expected.std())


def test_a_larger_discount_makes_it_coarser() -> None:
    coarse = [power(drawn(multires_iterations=6, multires_discount=share))[0] for share in (0.1, 0.4, 0.9)]
    assert coarse[0] < coarse[1] < coarse[2]


def test_multires_ends_at_one_pixel() -> None:
    noise = draw_noise((1, 4, 2, 2), ObjectiveConfig(multires_iterations=10), generator(1))
    assert torch.isfinite(noise).all()


def test_perturbation_adds_its_share_and_is_off_by_default() -> None:
    noise = drawn()
    before = generator(9).get_state()
    chance = generator(9)
    assert perturb(noise, ObjectiveConfig(), chance) is noise
    assert torch.equal(chance.get_state(), before)
    moved = perturb(noise, ObjectiveConfig(input_perturbation=0.1), chance) - noise
    assert moved.std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noise, drawn())
