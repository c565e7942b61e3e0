"""The learning rate over the steps, by its properties."""

import pytest

from lora_studio.engine.config import ScheduleConfig
from lora_studio.engine.schedules import learning_rate

KINDS = ("constant", "linear", "cosine", "cosine_with_restarts")


def curve(kind: str, total: int = 100, **more: object) -> list[float]:
    config = ScheduleConfig.load({"kind": kind, "warmup": 0.0, **more})
    return [learning_rate(step, total, config) for step in range(1, total + 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.9])
def test_the_rate_stays_between_zero_and_one_and_no_first_step_is_lost(kind: str, total: int, warmup: float) -> None:
    rates = curve(kind, total, warmup=warmup)
    assert all(0 <= rate <= 1 for rate in rates) and rates[0] > 0


def test_constant_stays() -> None:
    assert set(curve("constant")) == {1.0}


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_falling_shapes_only_fall_and_end_low(kind: str) -> None:
    rates = curve(kind)
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True) and rates[-1] < 0.02
    assert rates[50] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("restarts", [1, 2, 3, 5])
def test_hard_restarts_begin_anew_so_many_times(restarts: int) -> None:
    rates = curve("cosine_with_restarts", 300, restarts=restarts)
    jumps = [i for i in range(1, 300) if rates[i] > rates[i - 1]]
    assert len(jumps) == restarts - 1
    assert all(rates[i] > 0.99 and rates[i - 1] < 0.01 for i in jumps)


def test_the_warmup_climbs_in_a_line_over_its_share() -> None:
    rates = curve("constant", warmup=0.1)
    assert rates[:10] == pytest.approx([n / 11 for n in range(1, 11)]) and rates[10] == 1.0
