"""What counts as right: weights of noise levels, losses, masks, which noise levels come up."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_studio.engine.config import ObjectiveConfig
from lora_studio.engine.objective import (
    draw_timesteps,
    errors,
    huber_sizes,
    noisy_input,
    picture_weights,
    snr,
    weights,
)

PREDICTIONS = ("epsilon", "v_prediction", "sample")
ENDS = torch.tensor([0.0, 1e-6, 0.5, 1.0, 4.0, 900.0, 5000.0, float("inf")])


def of(ratio: float, prediction: str, **settings: Any) -> float:
    """One weight."""
    return weights(torch.tensor([ratio], dtype=torch.float64), prediction, ObjectiveConfig(**settings)).item()


def test_the_ratio_goes_from_infinite_to_nothing() -> None:
    kept = torch.tensor([1.0, 0.8, 0.5, 0.0])
    assert snr(kept, torch.tensor([0, 1, 2, 3])).tolist() == pytest.approx([math.inf, 4.0, 1.0, 0.0])


def test_noise_is_mixed_in_by_share_of_the_power() -> None:
    latents, noise = torch.full((3, 1, 2, 2), 3.0), torch.full((3, 1, 2, 2), 5.0)
    mixed = noisy_input(latents, noise, torch.tensor([1.0, 0.36, 0.0]))
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([3.0, 0.6 * 3 + 0.8 * 5, 5.0])


# --- weights ------------------------------------------------------------------------------------------------------

# by hand from the published formulas, at snr 2 and 8 with the settings named
TABLE = [
    ("none", {}, "epsilon", 2, 1.0),
    ("none", {}, "sample", 8, 1.0),
    ("min_snr", {"min_snr_gamma": 5}, "epsilon", 2, 1.0),
    ("min_snr", {"min_snr_gamma": 5}, "epsilon", 8, 5 / 8),
    ("min_snr", {"min_snr_gamma": 5}, "v_prediction", 2, 2 / 3),
    ("min_snr", {"min_snr_gamma": 5}, "v_prediction", 8, 5 / 9),
    ("min_snr", {"min_snr_gamma": 5}, "sample", 2, 2.0),
    ("min_snr", {"min_snr_gamma": 5}, "sample", 8, 5.0),
    ("min_snr", {"min_snr_gamma": 1}, "epsilon", 2, 1 / 2),
    ("min_snr", {"min_snr_gamma": 0}, "epsilon", 8, 1.0),
    ("min_snr", {"min_snr_gamma": 0}, "v_prediction", 8, 1.0),
    ("debiased", {}, "epsilon", 8, 1 / math.sqrt(8)),
    ("debiased", {}, "epsilon", 4000, 1 / math.sqrt(1000)),
    ("debiased", {}, "v_prediction", 8, 1 / 9),
    ("debiased", {}, "v_prediction", 4000, 1 / 1001),
    ("debiased", {}, "v_prediction", 0, 1.0),
    ("debiased", {}, "sample", 8, math.sqrt(8)),
    ("p2", {"p2_gamma": 1}, "epsilon", 8, 1 / 9),
    ("p2", {"p2_gamma": 0.5}, "epsilon", 8, 1 / 3),
    ("p2", {"p2_gamma": 0}, "epsilon", 8, 1.0),
    ("p2", {"p2_gamma": 1}, "v_prediction", 8, 8 / 81),
    ("p2", {"p2_gamma": 1}, "sample", 8, 8 / 9),
]


@pytest.mark.parametrize(("weighting", "settings", "prediction", "ratio", "expected"), TABLE)
def test_weights_are_the_published_ones(
    weighting: str, settings: dict[str, float], prediction: str, ratio: float, expected: float
) -> None:
    assert of(ratio, prediction, weighting=weighting, **settings) == pytest.approx(expected)


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_whatever_the_base_predicts_the_same_thing_is_minimised(weighting: str) -> None:
    """The same guess of the picture costs the same, told as noise, as v or as the picture."""
    ratio = torch.tensor([0.1, 1.0, 3.0, 30.0], dtype=torch.float64)
    kept = (ratio / (1 + ratio)).view(-1, 1, 1, 1)
    picture, noise, guess = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = noisy_input(picture, noise, kept.flatten())
    found = (seen - kept.sqrt() * guess) / (1 - kept).sqrt()  # the noise that this guess stands for
    told = {
        "epsilon": (found, noise),
        "v_prediction": (
            kept.sqrt() * found - (1 - kept).sqrt() * guess,
            kept.sqrt() * noise - (1 - kept).sqrt() * picture,
        ),
        "sample": (guess, picture),
    }
    config = ObjectiveConfig(weighting=weighting, min_snr_gamma=2.0)
    costs = [
        weights(ratio, kind, config) * errors(*told[kind], config, ratio, torch.zeros(4).long()) for kind in PREDICTIONS
    ]
    torch.testing.assert_close(costs[0], costs[1])
    torch.testing.assert_close(costs[0], costs[2])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", ["none", "min_snr", "debiased", "p2"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_no_noise_level_makes_a_weight_that_is_no_number(weighting: str, prediction: str, gamma: float) -> None:
    found = weights(ENDS, prediction, ObjectiveConfig(weighting=weighting, p2_gamma=gamma, min_snr_gamma=gamma * 5))
    assert torch.isfinite(found).all() and (found >= 0).all()


def test_regularisation_pictures_count_as_the_setting_says() -> None:
    assert picture_weights([False, True], ObjectiveConfig(prior_weight=0.25)).tolist() == [1.0, 0.25]


# --- losses -------------------------------------------------------------------------------------------------------


def one_error(size: float, **settings: Any) -> float:
    """The loss of an error of this size everywhere, at snr 1 (sigma 1) and timestep 500 of 1000."""
    answer = torch.full((1, 2, 2, 2), size, dtype=torch.float64)
    ratio = torch.ones(1, dtype=torch.float64)
    return errors(answer, torch.zeros_like(answer), ObjectiveConfig(**settings), ratio, torch.tensor([500])).item()


def test_losses_are_the_published_ones() -> None:
    constant = {"huber_c": 0.2, "huber_schedule": "constant"}
    assert one_error(3.0) == 9.0
    expected = 2 * (math.sqrt(9 + 0.04) - 0.2)
    assert one_error(3.0, loss="smooth_l1", **constant) == pytest.approx(expected)
    assert one_error(3.0, loss="huber", **constant) == pytest.approx(0.2 * expected)


@pytest.mark.parametrize(
    ("schedule", "ratio", "timestep", "expected"),
    [
        ("constant", 1.0, 500, 0.1),
        ("exponential", 1.0, 0, 1.0),
        ("exponential", 1.0, 500, math.sqrt(0.1)),
        ("exponential", 1.0, 1000, 0.1),
        ("snr", 1.0, 500, 0.9 / 4 + 0.1),
        ("snr", 0.25, 500, 0.9 / 9 + 0.1),
        ("snr", 0.0, 999, 0.1),
        ("snr", math.inf, 0, 1.0),
    ],
)
def test_the_size_of_a_large_error_follows_its_schedule(
    schedule: str, ratio: float, timestep: int, expected: float
) -> None:
    config = ObjectiveConfig(huber_c=0.1, huber_schedule=schedule)
    assert huber_sizes(config, torch.tensor([ratio]), torch.tensor([timestep])).item() == pytest.approx(expected)


def test_small_errors_count_squared_and_large_ones_less() -> None:
    assert one_error(1e-4, loss="huber", huber_schedule="constant") == pytest.approx(1e-8, rel=1e-4)
    assert one_error(100.0, loss="huber") < one_error(100.0) / 100
    ratio = one_error(2e4, loss="smooth_l1") / one_error(1e4, loss="smooth_l1")
    assert ratio == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
def test_gradients_are_those_of_the_value_at_every_noise_level(loss: str, schedule: str, masked: bool) -> None:
    config = ObjectiveConfig(loss=loss, huber_schedule=schedule, mask_outside=0.3)
    chance = torch.Generator().manual_seed(0)
    answer = torch.randn((3, 2, 2, 3), dtype=torch.float64, generator=chance).requires_grad_()
    target = torch.randn((3, 2, 2, 3), dtype=torch.float64, generator=chance)
    ratio = torch.tensor([0.0, 2.0, math.inf], dtype=torch.float64)
    mask = torch.rand((3, 1, 2, 3), dtype=torch.float64, generator=chance) if masked else None
    steps = torch.tensor([999, 400, 0])
    assert torch.autograd.gradcheck(lambda value: errors(value, target, config, ratio, steps, mask), (answer,))


@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
def test_a_right_answer_costs_nothing_and_has_no_gradient(loss: str) -> None:
    answer = torch.ones((2, 1, 2, 2)).requires_grad_()
    ratio = torch.tensor([0.0, math.inf])
    cost = errors(answer, torch.ones((2, 1, 2, 2)), ObjectiveConfig(loss=loss), ratio, torch.tensor([999, 0]))
    cost.sum().backward()
    assert cost.tolist() == [0.0, 0.0] and not answer.grad.any()  # type: ignore[union-attr]


def test_half_precision_answers_are_counted_in_full() -> None:
    answer = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)  # its square is no half number
    cost = errors(answer, torch.zeros((1, 1, 2, 2)), ObjectiveConfig(), torch.ones(1), torch.zeros(1).long())
    assert cost.item() == 90000.0 and cost.dtype == torch.float32


# --- masks --------------------------------------------------------------------------------------------------------


def masked(mask: Tensor | None, **settings: Any) -> Tensor:
    """Errors of 1 on the left half and 3 on the right, two pictures."""
    answer = torch.ones(2, 3, 4, 4)
    answer[..., 2:] = 3.0
    chance = torch.Generator().manual_seed(0)
    answer = answer + 0.1 * torch.rand(answer.shape, generator=chance) if settings.pop("rough", False) else answer
    steps = torch.tensor([500, 500])
    return errors(answer, torch.zeros_like(answer), ObjectiveConfig(**settings), torch.ones(2), steps, mask)


@pytest.mark.parametrize("outside", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
def test_a_mask_of_ones_is_exactly_no_mask(loss: str, outside: float) -> None:
    one = masked(torch.ones(2, 1, 4, 4), loss=loss, mask_outside=outside, rough=True)
    assert torch.equal(one, masked(None, loss=loss, rough=True))


def test_only_what_the_mask_shows_counts_each_picture_by_its_own() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :, :2] = 1
    mask[1, :, :, 2:] = 1
    assert masked(mask).tolist() == [1.0, 9.0]


def test_a_small_mask_weighs_as_much_as_a_large_one() -> None:
    small = torch.zeros(2, 1, 4, 4)
    small[:, :, 0, 0] = 1
    assert masked(small).tolist() == [1.0, 1.0]


def test_outside_counts_as_much_as_the_setting_says() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    assert masked(mask, mask_outside=0.25).tolist() == pytest.approx([(1 + 0.25 * 9) / 1.25] * 2)
    assert torch.equal(masked(mask, mask_outside=1.0), masked(None))


def test_an_empty_mask_costs_nothing_rather_than_nan() -> None:
    assert masked(torch.zeros(2, 1, 4, 4)).tolist() == [0.0, 0.0]
    assert masked(torch.zeros(2, 1, 4, 4), mask_outside=0.5).tolist() == [5.0, 5.0]


# --- timesteps ----------------------------------------------------------------------------------------------------


def drawn(count: int = 20000, total: int = 1000, **settings: Any) -> Tensor:
    return draw_timesteps(count, total, ObjectiveConfig(**settings), torch.Generator().manual_seed(3))


def test_with_default_settings_timesteps_are_plain_integers_from_the_generator() -> None:
    assert torch.equal(drawn(50), torch.randint(0, 1000, (50,), generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("kind", ["uniform", "logit_normal", "content", "style"])
def test_timesteps_stay_in_their_range_and_reach_its_ends(kind: str) -> None:
    found = drawn(timestep_distribution=kind, timestep_min=200, timestep_max=230, logit_std=3.0)
    assert (found.min().item(), found.max().item()) == (200, 229)


def test_the_range_is_told_in_thousandths_and_never_empty() -> None:
    found = drawn(total=10, timestep_min=200, timestep_max=500)
    assert sorted(set(found.tolist())) == [2, 3, 4]
    assert set(drawn(100, total=10, timestep_min=999, timestep_max=1000).tolist()) == {9}
    assert set(drawn(100, total=1000, timestep_min=0, timestep_max=1).tolist()) == {0}


@pytest.mark.parametrize(
    ("settings", "quartiles"),
    [
        ({}, [0.25, 0.5, 0.75]),
        ({"timestep_distribution": "content"}, [1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3]),
        ({"timestep_distribution": "style"}, [0.25**3, 0.5**3, 0.75**3]),
        # sigmoid(mean + std * q) at the normal quartiles -0.6745, 0, 0.6745
        ({"timestep_distribution": "logit_normal"}, [0.3375, 0.5, 0.6625]),
        ({"timestep_distribution": "logit_normal", "logit_mean": 1.0, "logit_std": 0.5}, [0.6599, 0.7311, 0.7920]),
    ],
)
def test_each_distribution_has_the_quartiles_of_its_formula(settings: dict[str, Any], quartiles: list[float]) -> None:
    found = drawn(**settings).double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)) / 1000
    assert found.tolist() == pytest.approx(quartiles, abs=0.012)
