"""Aspect-ratio buckets, and the one formula for the number of steps. Integers in, integers out; no torch.

The list of sizes and the choice are those of sd-scripts, so that a data set is cut the same way there and here.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lora_studio.engine.config import DataConfig, TrainConfig

Size = tuple[int, int]


def make_buckets(config: DataConfig) -> list[Size]:
    """Sorted (width, height) of all shapes of at most resolution squared pixels; sides are multiples of the step."""
    step, area = config.bucket_step, config.resolution**2
    side = config.resolution // step * step
    sizes = {(side, side)}
    for width in range(math.ceil(config.bucket_min / step) * step, config.bucket_max + 1, step):
        height = min(config.bucket_max // step * step, area // width // step * step)
        if height >= config.bucket_min:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def assign(width: int, height: int, config: DataConfig, buckets: Sequence[Size] | None = None) -> Size:
    """The bucket for a picture of width x height pixels: its own size if that is one, else the nearest aspect ratio."""
    if config.no_upscale:
        return _own_size(width, height, config)
    buckets = make_buckets(config) if buckets is None else buckets
    if (width, height) in buckets:
        return width, height
    aspect = width / height
    return min(buckets, key=lambda size: abs(size[0] / size[1] - aspect))


def _own_size(width: int, height: int, config: DataConfig) -> Size:
    """Shrink to the area of the resolution if larger, then cut down to multiples of the step; never enlarges."""
    step, area = config.bucket_step, config.resolution**2
    if width * height > area:
        aspect = width / height
        exact = math.sqrt(area * aspect)
        by_width = _whole(exact, step), _whole(_whole(exact, step) / aspect, step)
        by_height = _whole(_whole(exact / aspect, step) * aspect, step), _whole(exact / aspect, step)
        width, height = min(by_width, by_height, key=lambda size: abs(size[0] / size[1] - aspect))
    return max(step, width // step * step), max(step, height // step * step)


def _whole(value: float, step: int) -> int:
    return max(step, int(value / step) * step)


def fit(width: int, height: int, bucket: Size) -> tuple[Size, tuple[int, int]]:
    """Size to resize to so that the bucket is covered, and (left, top) of the centre crop; pixels."""
    scale = max(bucket[0] / width, bucket[1] / height)
    size = max(bucket[0], int(width * scale + 0.5)), max(bucket[1], int(height * scale + 0.5))
    return size, ((size[0] - bucket[0]) // 2, (size[1] - bucket[1]) // 2)


@dataclass(frozen=True)
class StepPlan:
    """How long a training will be, and why."""

    images: int
    """Pictures trained on (without those held out)."""
    held_out: int
    samples: int
    """Pictures shown in an epoch, repeats counted."""
    buckets: dict[Size, int]
    """Samples of an epoch by shape."""
    batches_per_epoch: int
    steps_per_epoch: int
    epochs: int
    steps: int

    @property
    def sentence(self) -> str:
        """The sum in words, e.g. for the page."""
        shapes = f" in {len(self.buckets)} shapes" if len(self.buckets) > 1 else ""
        held = f" ({self.held_out} more held out)" if self.held_out else ""
        return (
            f"{self.images} pictures{held} make {self.samples} samples an epoch{shapes}: "
            f"{self.steps_per_epoch} steps x {self.epochs} epochs = {self.steps} steps."
        )


def held_out_count(images: int, share: float) -> int:
    """How many of `images` are held out for validation: the share rounded, but never all of them."""
    return min(max(1, round(images * share)), images - 1) if share > 0 and images > 1 else 0


def epoch_batches(counts: dict[Size, int], batch_size: int) -> int:
    """Batches of an epoch: each shape fills its own batches, the last one of a shape may be smaller."""
    return sum(math.ceil(count / batch_size) for count in counts.values())


def held_out_indices(images: int, config: TrainConfig) -> list[int]:
    """Which pictures are held out, chosen by the seed alone."""
    return sorted(
        random.Random(config.run.seed).sample(range(images), held_out_count(images, config.run.validation_share))
    )


def steps_for(images: Sequence[tuple[int, int, int]], config: TrainConfig) -> StepPlan:
    """The plan for pictures given as (width, height, repeats): the one formula, used by page and trainer alike."""
    held = set(held_out_indices(len(images), config))
    buckets = make_buckets(config.data)
    counts: Counter[Size] = Counter()
    for index, (width, height, repeats) in enumerate(images):
        if index not in held:
            counts[assign(width, height, config.data, buckets)] += repeats * config.data.repeats
    batches = epoch_batches(counts, config.data.batch_size)
    steps = math.ceil(batches / config.run.gradient_accumulation)
    return StepPlan(
        images=len(images) - len(held),
        held_out=len(held),
        samples=sum(counts.values()),
        buckets=dict(sorted(counts.items())),
        batches_per_epoch=batches,
        steps_per_epoch=steps,
        epochs=config.run.epochs,
        steps=steps * config.run.epochs,
    )
