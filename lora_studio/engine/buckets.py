"""Aspect-ratio buckets, and the one formula for the number of steps. Integers in, integers out; no torch.

The list of sizes and the choice are those of sd-scripts, so that a data set is cut the same way there and here.
"""

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lora_studio.engine.config import DataConfig, TrainConfig
from lora_studio.engine.wording import mentions

Size = tuple[int, int]


def resolutions(config: DataConfig) -> tuple[int, ...]:
    """The sizes trained in: the resolution, then the further ones in order, each once."""
    return tuple(dict.fromkeys((config.resolution, *config.more_resolutions)))


def make_buckets(config: DataConfig, resolution: int | None = None) -> list[Size]:
    """Sorted (width, height) of all shapes of at most resolution squared pixels; sides are multiples of the step.

    For a further `resolution` the shortest and longest side grow or shrink along with it, so that every size has the
    same range of shapes; a size below one step is trained in a square of one step.
    """
    resolution = resolution or config.resolution
    step, area = config.bucket_step, resolution**2
    shortest = config.bucket_min * resolution // config.resolution
    longest = config.bucket_max * resolution // config.resolution
    side = max(step, resolution // step * step)
    sizes = {(side, side)}
    for width in range(max(1, math.ceil(shortest / step)) * step, longest + 1, step):
        height = min(longest // step * step, area // width // step * step)
        if height >= max(shortest, step):
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def assign(
    width: int,
    height: int,
    config: DataConfig,
    buckets: Sequence[Size] | None = None,
    resolution: int | None = None,
) -> Size:
    """The bucket for a picture of width x height pixels: its own size if that is one, else the nearest aspect ratio.
    `buckets` are those of the resolution, when they are at hand."""
    if config.no_upscale:
        return _own_size(width, height, config.bucket_step, (resolution or config.resolution) ** 2)
    buckets = make_buckets(config, resolution) if buckets is None else buckets
    if (width, height) in buckets:
        return width, height
    aspect = width / height
    return min(buckets, key=lambda size: abs(size[0] / size[1] - aspect))


def _own_size(width: int, height: int, step: int, area: int) -> Size:
    """Shrink to `area` pixels if larger, then cut down to multiples of the step; never enlarges."""
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
    """Pictures shown in an epoch, repeats and sizes counted; without regularisation pictures."""
    buckets: dict[Size, int]
    """Samples of an epoch by shape, those of regularisation pictures included."""
    batches_per_epoch: int
    steps_per_epoch: int
    epochs: int
    steps: int
    regularization: int = 0
    """Regularisation samples of an epoch: as many as `samples`, or none."""

    @property
    def sentence(self) -> str:
        """The sum in words, e.g. for the page."""
        shapes = f" in {len(self.buckets)} shapes" if len(self.buckets) > 1 else ""
        held = f" ({self.held_out} more held out)" if self.held_out else ""
        beside = f" and {self.regularization} regularisation samples" if self.regularization else ""
        return (
            f"{self.images} pictures{held} make {self.samples} samples{beside} an epoch{shapes}: "
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


Entry = tuple[int, int, int] | tuple[int, int, int, str] | tuple[int, int, int, str, str]
"""(width, height, repeats) of a picture, and its caption (tags, then sentences) where tags are balanced."""


def steps_for(
    images: Sequence[Entry], config: TrainConfig, regularization: Sequence[Size] = (), world: int = 1
) -> StepPlan:
    """The plan for pictures given as (width, height, repeats): the one formula, used by page and trainer alike.

    Further entries, tags and sentences, are needed only for data.balance. `regularization` holds the sizes of those
    pictures; `world` processes train together, each with its own batch.
    """
    held = set(held_out_indices(len(images), config))
    training = [entry for index, entry in enumerate(images) if index not in held]
    repeats = sample_counts([entry[2:] for entry in training], config.data)
    sizes = [entry[:2] for entry in training]
    counts: Counter[Size] = Counter()
    for resolution in resolutions(config.data):
        counts.update(samples_by_shape(resolution, sizes, repeats, regularization, config.data))
    batches = epoch_batches(counts, config.data.batch_size * world)
    steps = math.ceil(batches / config.run.gradient_accumulation)
    samples = sum(repeats) * len(resolutions(config.data))
    return StepPlan(
        images=len(training),
        held_out=len(held),
        samples=samples,
        buckets=dict(sorted(counts.items())),
        batches_per_epoch=batches,
        steps_per_epoch=steps,
        epochs=config.run.epochs,
        steps=steps * config.run.epochs,
        regularization=samples if regularization else 0,
    )


def samples_by_shape(
    resolution: int, sizes: Sequence[Size], repeats: Sequence[int], regularization: Sequence[Size], config: DataConfig
) -> Counter[Size]:
    """An epoch's samples of one resolution by shape: of training pictures with their `repeats`, and as many of
    regularisation pictures."""
    buckets = make_buckets(config, resolution)
    counts: Counter[Size] = Counter()
    for size, times in zip(sizes, repeats, strict=True):
        counts[assign(*size, config, buckets, resolution)] += times
    counts.update(share_out(sum(repeats), Counter(assign(*s, config, buckets, resolution) for s in regularization)))
    return counts


def share_out(total: int, shapes: Mapping[Size, int]) -> dict[Size, int]:
    """`total` regularisation samples dealt to shapes in proportion to the pictures each holds, adding up exactly.

    Whole parts first, then one each to the largest remainders; among equals the smaller shape comes first.
    """
    pictures = sum(shapes.values())
    if not pictures:
        return {}
    found = {size: total * count // pictures for size, count in shapes.items()}
    order = sorted(shapes, key=lambda size: (-(total * shapes[size] % pictures), size))
    for size in order[: total - sum(found.values())]:
        found[size] += 1
    return found


# --- balance ------------------------------------------------------------------------------------------------------


def sample_counts(
    pictures: Sequence[tuple[int] | tuple[int, str] | tuple[int, str, str]], config: DataConfig
) -> list[int]:
    """How often each training picture, given as (repeats, tags, sentences), comes up in an epoch at each size."""
    repeats = [own for own, *_ in pictures]
    if config.balance:
        written = [(*words, "", "")[:2] for _, *words in pictures]
        groups = [{i for i, tag in enumerate(config.balance) if mentions(*words, tag)} for words in written]
        repeats = balanced(repeats, groups)
    return [times * config.repeats for times in repeats]


def balanced(repeats: Sequence[int], groups: Sequence[set[int]]) -> list[int]:
    """Repeats raised until the pictures of each group come up as often as those of the group with the most samples.

    `groups` holds, for each picture, the groups that it belongs to; pictures in none keep their repeats. Nothing is
    taken away. One repeat at a time goes to the rarest group, there to the picture that was raised least so far in
    proportion to its own repeats, the first among equals; never to one that is also in a full group. A group all of
    whose pictures are in a full one too cannot be raised and stays rarer.
    """
    result = list(repeats)
    totals: Counter[int] = Counter()
    waiting: dict[int, list[tuple[float, int]]] = {}
    for index, own in enumerate(groups):
        if not repeats[index]:  # shown not at all: cannot be raised
            continue
        for group in own:
            totals[group] += repeats[index]
            waiting.setdefault(group, []).append((1.0, index))
    full = max(totals.values(), default=0)
    while open_groups := [group for group in sorted(waiting) if totals[group] < full]:
        group = min(open_groups, key=lambda group: totals[group])
        picture = _least_raised(waiting[group], result, repeats, lambda i: all(totals[g] < full for g in groups[i]))
        if picture is None:
            del waiting[group]
            continue
        result[picture] += 1
        heapq.heappush(waiting[group], (result[picture] / repeats[picture], picture))
        totals.update(groups[picture])
    return result


def _least_raised(
    heap: list[tuple[float, int]], result: list[int], repeats: Sequence[int], allowed: Callable[[int], bool]
) -> int | None:
    """Take the least raised picture off the heap; those raised meanwhile through another group are put back, those
    not allowed are dropped for good (full groups stay full)."""
    while heap:
        ratio, picture = heapq.heappop(heap)
        now = result[picture] / repeats[picture]
        if not allowed(picture):
            continue
        if now > ratio:
            heapq.heappush(heap, (now, picture))
            continue
        return picture
    return None
