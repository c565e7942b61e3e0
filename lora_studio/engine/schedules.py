"""The learning rate over the steps: pure functions of the step."""

import math
from collections.abc import Callable

from lora_studio.engine.config import ScheduleConfig

RISE = 0.3  # of one_cycle: share of the steps that climb (torch's OneCycleLR, fastai)
FIRST = 1 / 25  # of one_cycle: where it begins (OneCycleLR's div_factor)
REX_D = 0.9  # of REX: how long the rate stays high; the paper takes 0.5, the trainers in use 0.9


def learning_rate(step: int, total: int, config: ScheduleConfig) -> float:
    """Multiplier in 0..1 of the learning rate for optimizer step `step` (1-based) of `total`.

    The warm-up climbs from just above zero to one over its steps; the shape fills the rest, so that it reaches
    `config.end` one step after the last. Neither the first step nor the last has rate zero: none is wasted.
    One-cycle brings its own climb, and the restarts of REX share the warm-up's steps among them.
    """
    warmup = config.warmup_steps or round(total * config.warmup)
    if config.kind == "one_cycle":
        return _one_cycle(step - 1, total, config.end)
    if config.kind == "rex_with_restarts":
        return _rex_with_restarts(step - 1, total, warmup, config)
    if step <= warmup:
        return step / (warmup + 1)
    done, length = step - 1 - warmup, max(1, total - warmup)
    return _fall(_SHAPES[config.kind](done, length, config), 1.0, config.end)


def _fall(share: float, top: float, end: float) -> float:
    """`share` of the way between `top` (1) and `end` (0); a top below the end stays where it is."""
    return end + (top - end) * share if top > end else top


def _linear(done: int, length: int, config: ScheduleConfig) -> float:
    return max(0.0, 1 - done / length)


def _cosine(done: int, length: int, config: ScheduleConfig) -> float:
    """SGDR's half cosine (arXiv 1608.03983), once."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done / length)))


def _hard_restarts(done: int, length: int, config: ScheduleConfig) -> float:
    """Half a cosine, `restarts` times: hard restarts, as sd-scripts and transformers mean them.

    The place in the cycle is counted in whole numbers: in floats 49 * (1 / 49) is 0.999..., and the restart would come
    a step late, after one with rate zero.
    """
    if done >= length:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (done * config.restarts % length) / length))


def _polynomial(done: int, length: int, config: ScheduleConfig) -> float:
    return _linear(done, length, config) ** config.power


def _rex(done: int, length: int, config: ScheduleConfig) -> float:
    """REX (arXiv 2107.04197): (1 - p) / ((1 - d) + d (1 - p)), for progress p."""
    left = max(0.0, 1 - done / length)
    return left / ((1 - REX_D) + REX_D * left)


def _rex_with_restarts(done: int, total: int, warmup: int, config: ScheduleConfig) -> float:
    """REX begun anew; each cycle has its own share of the warm-up and reaches `restart_decay` of the one before."""
    cycles = min(config.restarts, total)
    cycle = min(cycles - 1, done * cycles // total)
    start, after = (-(-number * total // cycles) for number in (cycle, cycle + 1))
    top, climb, place = config.restart_decay**cycle, warmup // cycles, done - start
    if place < climb:
        return top * (place + 1) / (climb + 1)
    return _fall(_rex(place - climb, max(1, after - start - climb), config), top, config.end)


def _one_cycle(done: int, total: int, end: float) -> float:
    """Half a cosine up in the first 30 %, half a cosine down to `end` (arXiv 1708.07120; OneCycleLR's shape)."""
    peak = max(0.0, RISE * (total + 1) - 1)
    if done < peak:
        return FIRST + (1 - FIRST) * 0.5 * (1 - math.cos(math.pi * done / peak))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - peak) / (total - peak))))


_SHAPES: dict[str, Callable[[int, int, ScheduleConfig], float]] = {
    "constant": lambda done, length, config: 1.0,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _hard_restarts,
    "polynomial": _polynomial,
    "rex": _rex,
}
"""Share of the full rate in 0..1 after `done` of `length` steps; 0 once all are done."""
