"""Buckets and the number of steps."""

import math
import random
from collections import Counter

import pytest

from lora_studio.engine.buckets import assign, fit, make_buckets, resolutions, sample_counts, share_out, steps_for
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


# --- more sizes, regularisation, balance --------------------------------------------------------------------------


def test_further_sizes_have_the_same_range_of_shapes() -> None:
    config = DataConfig(resolution=512, more_resolutions=(1024, 256), bucket_step=64)
    assert resolutions(config) == (512, 1024, 256)
    ratios = {}
    for size in resolutions(config):
        shapes = make_buckets(config, size)
        assert (size, size) in shapes and all(w * h <= size * size for w, h in shapes)
        ratios[size] = max(w / h for w, h in shapes)
    assert ratios == {512: 4.0, 1024: 4.0, 256: 4.0}


def test_a_size_below_one_step_is_a_square_of_one_step() -> None:
    assert make_buckets(DataConfig(resolution=512, bucket_step=64), 32) == [(64, 64)]


def test_every_size_counts_in_the_steps() -> None:
    config = TrainConfig.load({"data": {"batch_size": 2}, "run": {"epochs": 1}})
    more = config.with_changes({"data.more_resolutions": (768, 1024)})
    sizes = [(512, 512, 1)] * 5
    assert steps_for(sizes, config).steps == 3
    plan = steps_for(sizes, more)
    assert (plan.steps, plan.samples, plan.images) == (9, 15, 5)
    assert plan.buckets == {(512, 512): 5, (768, 768): 5, (1024, 1024): 5}


def test_regularisation_samples_are_as_many_as_the_others_and_told() -> None:
    config = TrainConfig.load({"data": {"batch_size": 1}, "run": {"epochs": 1, "validation_share": 0.2}})
    plan = steps_for([(512, 512, 3)] * 5, config, [(512, 512), (300, 600)])
    assert (plan.samples, plan.regularization, plan.steps) == (12, 12, 24)
    assert "12 regularisation samples" in plan.sentence
    assert "regularisation" not in steps_for([(512, 512, 3)], config).sentence


def test_shapes_get_their_share_of_the_regularisation_samples() -> None:
    assert share_out(10, {(1, 1): 1, (2, 2): 1, (3, 3): 1}) == {(1, 1): 4, (2, 2): 3, (3, 3): 3}
    assert share_out(2, {(1, 1): 5, (2, 2): 5, (3, 3): 5}) == {(1, 1): 1, (2, 2): 1, (3, 3): 0}
    assert share_out(7, {(1, 1): 1, (2, 2): 6}) == {(1, 1): 1, (2, 2): 6}
    assert share_out(5, {}) == {}


def test_several_processes_take_larger_batches() -> None:
    config = TrainConfig.load({"data": {"batch_size": 2}, "run": {"epochs": 1}})
    assert steps_for([(512, 512, 1)] * 9, config, world=2).steps == 3


def balanced_counts(pictures: list[tuple[int, str]], *tags: str) -> dict[str, int]:
    counts = sample_counts(pictures, DataConfig(balance=tags))
    return {
        tag: sum(count for count, (_, caption) in zip(counts, pictures, strict=True) if tag in caption.split(", "))
        for tag in tags
    }


def test_rarer_tags_are_repeated_until_all_come_up_alike() -> None:
    pictures = [(1, "x, hat")] * 7 + [(2, "x, cap")] + [(1, "x, cap")] + [(1, "x")]
    assert balanced_counts(pictures, "hat", "cap") == {"hat": 7, "cap": 7}
    counts = sample_counts(pictures, DataConfig(balance=("hat", "cap")))
    assert counts[:7] == [1] * 7 and counts[-1] == 1
    assert counts[7:9] == [5, 2] or counts[7:9] == [4, 3]  # in proportion to the pictures' own repeats


def test_balance_ignores_case_and_multiplies_with_the_repeats_of_all() -> None:
    pictures = [(1, "Hat"), (1, "hat"), (1, "CAP")]
    assert sample_counts(pictures, DataConfig(balance=("hat", "cap"), repeats=3)) == [3, 3, 6]
    assert sample_counts(pictures, DataConfig(repeats=3)) == [3, 3, 3]


def test_a_picture_with_several_tags_counts_for_each() -> None:
    pictures = [(1, "hat, cap")] * 2 + [(1, "hat")] * 6 + [(1, "cap")]
    assert balanced_counts(pictures, "hat", "cap") == {"hat": 8, "cap": 8}
    # all caps wear hats too: nothing can be done, and nothing is
    assert sample_counts([(1, "hat, cap"), (1, "hat")], DataConfig(balance=("hat", "cap"))) == [1, 1]


def test_balance_of_any_set_ends_keeps_all_and_favours_none() -> None:
    dice = random.Random(5)
    for _ in range(60):
        pictures = [
            (dice.randrange(4), ", ".join(tag for tag in "abc" if dice.random() < 0.4))
            for _ in range(dice.randrange(12))
        ]
        config = DataConfig(balance=("a", "b", "c", "d"))
        before = balanced_counts(pictures, "none")
        counts = sample_counts(pictures, config)
        assert all(new >= old for new, (old, _) in zip(counts, pictures, strict=True)) and not before["none"]
        own = {tag: sum(r for r, c in pictures if tag in c.split(", ")) for tag in "abc"}
        after = balanced_counts(pictures, *"abc")
        plain = sample_counts(pictures, DataConfig(balance=tuple("abc")))
        assert counts == plain and max(after.values()) == max(own.values())
        apart = not any(len(c.split(", ")) > 1 for _, c in pictures)
        assert not apart or all(after[tag] in (0, max(own.values())) for tag in "abc")


def test_ten_thousand_pictures_are_balanced_in_no_time() -> None:
    pictures = [(1, "hat")] * 9900 + [(1, "cap")] * 100
    counts = sample_counts(pictures, DataConfig(balance=("hat", "cap")))
    assert sum(counts[9900:]) == 9900 and set(counts[9900:]) == {99}


def test_no_upscale_shrinks_for_smaller_sizes_too() -> None:
    config = DataConfig(no_upscale=True, more_resolutions=(256,))
    assert assign(600, 600, config) == (512, 512) and assign(600, 600, config, resolution=256) == (256, 256)
    assert assign(100, 200, config) == assign(100, 200, config, resolution=256) == (64, 192)


def test_a_balanced_word_may_stand_in_sentences() -> None:
    pictures = [(1, "hat", ""), (1, "hat", ""), (1, "", "She wears a Cap, smiling."), (1, "", "Caps and handicaps.")]
    assert sample_counts(pictures, DataConfig(balance=("hat", "cap"))) == [1, 1, 2, 1]
