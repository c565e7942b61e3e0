"""The learning rate over the steps: against the published formulas, and by its properties."""

import math
import random
import subprocess
import sys
from typing import Any

import pytest
import torch

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
from transformers import get_cosine_with_hard_restarts_schedule_with_warmup, get_linear_schedule_with_warmup

from lora_studio.engine.config import ScheduleConfig
from lora_studio.engine.schedules import learning_rate

CALM = ("linear", "cosine", "polynomial", "rex")
KINDS = ("constant", *CALM, "cosine_with_restarts", "rex_with_restarts", "one_cycle")


def curve(kind: str, total: int = 100, **more: object) -> list[float]:
    config = ScheduleConfig.load({"kind": kind, "warmup": 0.0, **more})
    return [learning_rate(step, total, config) for step in range(1, total + 1)]


def torch_curve(make: Any, total: int) -> list[float]:
    """What a torch scheduler makes of the rate 1 over `total` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.9])
def test_the_rate_stays_between_zero_and_one_and_no_first_step_is_lost(kind: str, total: int, warmup: float) -> None:
    rates = curve(kind, total, warmup=warmup)
    assert all(0 <= rate <= 1 for rate in rates) and rates[0] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_any_settings_give_a_rate_within_bounds_that_reaches_its_end(kind: str) -> None:
    chance = random.Random(kind)
    for _ in range(300):
        total = chance.choice([1, 2, 5, 37, 1000, 12_345])
        config = ScheduleConfig(
            kind=kind,
            restarts=chance.randint(1, 12),
            restart_decay=chance.uniform(0.3, 1),
            warmup=chance.choice([0, 0.05, chance.random() * 0.99]),
            warmup_steps=chance.choice([0, 0, 1, 10, 5000]),
            power=chance.uniform(0.2, 5),
            end=chance.choice([0, 0.1, chance.random() * 0.99]),
        )
        steps = sorted({1, total, *(chance.randint(1, total) for _ in range(30))})
        rates = [learning_rate(step, total, config) for step in steps]
        assert all(0 < rate <= 1 for rate in rates), config  # no step is wasted on a rate of zero
        warm = config.warmup_steps or round(total * config.warmup)
        if kind != "constant" and warm < total:
            top = config.restart_decay ** (min(config.restarts, total) - 1) if kind == "rex_with_restarts" else 1.0
            end = learning_rate(total + 1, total, config)
            assert end == pytest.approx(min(config.end, top), abs=1e-12), config


def test_constant_stays() -> None:
    assert set(curve("constant")) == {1.0}


@pytest.mark.parametrize("kind", CALM)
@pytest.mark.parametrize("end", [0.0, 0.25])
def test_falling_shapes_only_fall_and_end_low(kind: str, end: float) -> None:
    rates = curve(kind, 1000, end=end)
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True)
    assert end < rates[-1] < end + 0.02


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_line_and_cosine_are_half_way_down_in_the_middle(kind: str) -> None:
    assert curve(kind)[50] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("restarts", [1, 2, 3, 5])
def test_hard_restarts_begin_anew_so_many_times(restarts: int) -> None:
    rates = curve("cosine_with_restarts", 300, restarts=restarts)
    jumps = [i for i in range(1, 300) if rates[i] > rates[i - 1]]
    assert len(jumps) == restarts - 1
    assert all(rates[i] > 0.99 and rates[i - 1] < 0.01 for i in jumps)


@pytest.mark.parametrize("kind", ["cosine_with_restarts", "rex_with_restarts"])
def test_every_restart_begins_with_a_full_step(kind: str) -> None:
    for total in range(16, 200):  # cycles of two steps at least
        for restarts in range(2, 8):
            rates = curve(kind, total, restarts=restarts, restart_decay=1.0)
            lengths = [-(-total // restarts), total // restarts]
            starts = [i for i in range(1, total) if rates[i] > rates[i - 1]]
            assert len(starts) == restarts - 1
            assert all(b - a in lengths for a, b in zip([0, *starts], [*starts, total], strict=True))
            if total % restarts == 0 or kind == "rex_with_restarts":
                assert all(rates[i] == 1.0 for i in starts)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("one_cycle", "rex_with_restarts")])
def test_the_warmup_climbs_in_a_line_over_its_share(kind: str) -> None:
    rates = curve(kind, warmup=0.1)
    assert rates[:10] == pytest.approx([n / 11 for n in range(1, 11)]) and rates[10] == 1.0


def test_a_warmup_in_steps_goes_before_its_share() -> None:
    rates = curve("linear", warmup=0.5, warmup_steps=4)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and rates[5] < 1


def test_the_schedule_does_not_need_torch() -> None:
    code = "import sys, lora_studio.engine.schedules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- published formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [0.0, 0.2])
def test_cosine_is_the_one_of_torch(end: float) -> None:
    theirs = torch_curve(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60, eta_min=end), 60)
    assert curve("cosine", 60, end=end) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0])
def test_polynomial_is_the_one_of_torch(power: float) -> None:
    theirs = torch_curve(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 60, power), 60)
    assert curve("polynomial", 60, power=power) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("total", [40, 100, 333])
def test_one_cycle_is_the_one_of_torch(total: int) -> None:
    """Of one step more, as ours comes to its end after the last step instead of wasting it."""
    make = lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total + 1, cycle_momentum=False, final_div_factor=1e9)  # noqa: E731
    assert curve("one_cycle", total) == pytest.approx(torch_curve(make, total), abs=1e-9)


def test_one_cycle_peaks_after_thirty_percent() -> None:
    rates = curve("one_cycle", 1000, end=0.1)
    assert rates[0] == pytest.approx(1 / 25)
    assert abs(rates.index(max(rates)) - 300) <= 1 and max(rates) == pytest.approx(1, abs=1e-4)
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)


def test_linear_is_the_one_of_transformers_after_the_warmup() -> None:
    theirs = torch_curve(lambda o: get_linear_schedule_with_warmup(o, 6, 60), 60)
    assert curve("linear", 60, warmup=0.1)[6:] == pytest.approx(theirs[6:], abs=1e-9)


@pytest.mark.parametrize(("total", "warm", "restarts"), [(300, 0, 3), (320, 20, 3), (210, 10, 4), (97, 0, 5)])
def test_hard_restarts_are_the_ones_of_transformers(total: int, warm: int, restarts: int) -> None:
    make = lambda o: get_cosine_with_hard_restarts_schedule_with_warmup(o, warm, total, restarts)  # noqa: E731
    ours = curve("cosine_with_restarts", total, warmup_steps=warm, restarts=restarts)
    assert ours[warm:] == pytest.approx(torch_curve(make, total)[warm:], abs=1e-9)


def test_no_restart_is_lost_to_floating_point() -> None:
    """Where transformers' float formula restarts one step late, after a step with a rate of zero."""
    assert 2 / 98 * 49 % 1.0 > 0.5
    assert curve("cosine_with_restarts", 98, restarts=49)[::2] == [1.0] * 49


def rex(p: float, d: float = 0.9) -> float:
    """REX as published (arXiv 2107.04197), with the d of the trainers in use."""
    return (1 - p) / ((1 - d) + d * (1 - p))


def test_rex_follows_its_formula() -> None:
    assert curve("rex", 50) == pytest.approx([rex(k / 50) for k in range(50)])
    assert curve("rex", 50, end=0.1) == pytest.approx([0.1 + 0.9 * rex(k / 50) for k in range(50)])
    assert curve("rex", 60, warmup_steps=10)[10:] == pytest.approx([rex(k / 50) for k in range(50)])


def test_rex_restarts_lower_each_time_and_share_the_warmup() -> None:
    """The values of the Colab trainer: three cycles, each 0.9 of the one before, warm-up split among them."""
    rates = curve("rex_with_restarts", 300, restarts=3, restart_decay=0.9, warmup_steps=30, end=0.01)
    for cycle in range(3):
        top, part = 0.9**cycle, rates[100 * cycle : 100 * cycle + 100]
        assert part[:10] == pytest.approx([top * n / 11 for n in range(1, 11)])
        assert part[10:] == pytest.approx([0.01 + (top - 0.01) * rex(k / 90) for k in range(90)])


def test_the_height_of_a_restart_may_lie_below_the_end() -> None:
    rates = curve("rex_with_restarts", 40, restarts=4, restart_decay=0.1, end=0.5)
    assert rates[0] == 1 and rates[10:20] == pytest.approx([0.1] * 10) and math.isclose(rates[-1], 0.001)
