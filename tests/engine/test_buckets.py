"""Buckets and the number of steps."""

import math
import random
from collections import Counter

import pytest

from lora_studio.engine.buckets import assign, fit, make_buckets, steps_for
from lora_studio.engine.config import DataConfig, TrainConfig


@pytest.mark.parametrize(
    ("resolution", "smallest", "largest", "count"),
    [(512, 256, 1024, 17), (768, 320, 1280, 21), (1024, 256, 1024, 25), (1024, 256, 2048, 41), (1024, 512, 2048, 33)],
)
def test_there_are_as_many_shapes_as_in_sd_scripts(resolution: int, smallest: int, largest: int, count: int) -> None:
    config = DataConfig(resolution=resolution, bucket_min=smallest, bucket_max=largest)
    assert len(make_buckets(config)) == count


@pytest.mark.parametrize("step", [8, 16, 64])
def test_every_shape_keeps_the_rules(step: int) -> None:
    config = DataConfig(resolution=512, bucket_min=256, bucket_max=1024, bucket_step=step)
    shapes = make_buckets(config)
    assert (512, 512) in shapes
    for width, height in shapes:
        assert width % step == 0 and height % step == 0
        assert 256 <= width <= 1024 and width * height <= 512 * 512
        assert (height, width) in shapes


def test_a_picture_goes_to_the_nearest_aspect_ratio_and_covers_it() -> None:
    config, dice = DataConfig(), random.Random(1)
    shapes = make_buckets(config)
    for _ in range(300):
        width, height = dice.randrange(16, 3000), dice.randrange(16, 3000)
        bucket = assign(width, height, config, shapes)
        best = min(abs(w / h - width / height) for w, h in shapes)
        assert abs(bucket[0] / bucket[1] - width / height) == pytest.approx(best)
        (new_width, new_height), (left, top) = fit(width, height, bucket)
        assert new_width >= bucket[0] and new_height >= bucket[1]
        assert left >= 0 and left + bucket[0] <= new_width and top + bucket[1] <= new_height
        assert new_width == bucket[0] or new_height == bucket[1]


def test_without_upscaling_no_picture_grows() -> None:
    config, dice = DataConfig(no_upscale=True), random.Random(2)
    for _ in range(300):
        width, height = dice.randrange(64, 3000), dice.randrange(64, 3000)
        bucket = assign(width, height, config)
        assert bucket[0] <= width and bucket[1] <= height
        assert bucket[0] * bucket[1] <= 512 * 512


def plan_by_hand(sizes: list[tuple[int, int, int]], config: TrainConfig) -> int:
    """The steps by the definition: deal the samples of each shape into batches, count, gather, times epochs."""
    shapes = Counter()
    for width, height, repeats in sizes:
        shapes[assign(width, height, config.data)] += repeats * config.data.repeats
    batches = sum(math.ceil(count / config.data.batch_size) for count in shapes.values())
    return math.ceil(batches / config.run.gradient_accumulation) * config.run.epochs


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_the_step_formula_counts_batches_by_shape(batch: int, accumulation: int) -> None:
    config = TrainConfig.load(
        {"data": {"batch_size": batch, "repeats": 3}, "run": {"gradient_accumulation": accumulation, "epochs": 4}}
    )
    sizes = [(512, 512, 1), (500, 300, 2), (300, 500, 1), (512, 512, 5)]
    plan = steps_for(sizes, config)
    assert plan.steps == plan_by_hand(sizes, config) == plan.steps_per_epoch * 4
    assert plan.samples == 27 and sum(plan.buckets.values()) == 27
    assert str(plan.steps) in plan.sentence and "27 samples" in plan.sentence


def test_held_out_pictures_are_not_counted() -> None:
    config = TrainConfig.load({"run": {"validation_share": 0.25, "epochs": 1}, "data": {"batch_size": 1}})
    plan = steps_for([(512, 512, 1)] * 8, config)
    assert (plan.images, plan.held_out, plan.steps) == (6, 2, 6)


def test_one_picture_is_never_held_out() -> None:
    config = TrainConfig.load({"run": {"validation_share": 0.5}})
    assert steps_for([(512, 512, 1)], config).held_out == 0


def test_no_pictures_make_no_steps() -> None:
    assert steps_for([], TrainConfig()).steps == 0
