"""The learning rate over the steps: pure functions of the step."""

import math
from collections.abc import Callable

from lora_studio.engine.config import ScheduleConfig


def learning_rate(step: int, total: int, config: ScheduleConfig) -> float:
    """Multiplier in 0..1 of the learning rate for optimizer step `step` (1-based) of `total`.

    The warm-up climbs from just above zero to one over its share of the steps; the shape fills the rest. The first
    step never has rate zero, so no step is wasted.
    """
    warmup = round(total * config.warmup)
    if step <= warmup:
        return step / (warmup + 1)
    progress = (step - 1 - warmup) / max(1, total - warmup)
    return _SHAPES[config.kind](progress, config.restarts)


def _hard_restarts(progress: float, restarts: int) -> float:
    """Cosine from 1 to 0, `restarts` times (the meaning of sd-scripts and transformers: hard restarts)."""
    return 0.5 * (1 + math.cos(math.pi * ((progress * restarts) % 1.0)))


_SHAPES: dict[str, Callable[[float, int], float]] = {
    "constant": lambda progress, restarts: 1.0,
    "linear": lambda progress, restarts: 1 - progress,
    "cosine": lambda progress, restarts: _hard_restarts(progress, 1),
    "cosine_with_restarts": _hard_restarts,
}
