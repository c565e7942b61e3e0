"""The pictures of a training: read from dataset.json, put into buckets, and dealt out step by step.

Which pictures, in which order and with which caption, is a function of seed and step alone, so that a resumed run
goes on exactly where the old one would have been.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file
from lora_studio.core.images import WHITE, ImageError, decode
from lora_studio.engine import regularization
from lora_studio.engine.buckets import (
    Size,
    StepPlan,
    assign,
    held_out_indices,
    make_buckets,
    resolutions,
    sample_counts,
    share_out,
    steps_for,
)
from lora_studio.engine.config import DataConfig, TrainConfig
from lora_studio.engine.picture import VARIANTS, Picture, frame_of, look_of
from lora_studio.engine.pixels import Frame, cropped
from lora_studio.engine.wording import Shown, chance_of, draw


@dataclass(frozen=True)
class Sample:
    """One picture as it comes up in a step."""

    picture: Picture
    shown: Shown
    """Its words as they come up."""
    flip: bool
    variant: int = 0
    """Which of its chance cuts and colours; 0 is the centre in its own colours."""
    frame: Frame = (0, 0, 0, 0, 0, 0)
    """Original height and width, top and left of the cut, target height and width, pixels."""

    @property
    def caption(self) -> str:
        """What the text encoders are given."""
        return self.shown.text

    @property
    def which(self) -> tuple[Picture, bool, int]:
        """What a LatentCache is asked for."""
        return self.picture, self.flip, self.variant


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch."""

    samples: list[Sample]
    rows: list[int]
    """Their places in the whole batch: noise and timesteps are drawn for the whole and these rows taken."""
    total: int
    """Samples of the whole batch, over all processes."""

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


# --- reading --------------------------------------------------------------------------------------------------------


def read_dataset(path: Path, config: DataConfig, trigger: str = "") -> list[Picture]:
    """The pictures of dataset.json, each at the main resolution and called by the trigger, then those of
    data.regularization.

    Raises UserError naming what is missing or damaged.
    """
    try:
        entries = list(json.loads(path.read_text("utf-8"))["images"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The list of pictures {path.name} cannot be read ({error}).", "Start the training again."
        ) from error
    if not entries:
        raise UserError("There are no pictures to train on.", "Add pictures in Gathering and keep some in Curation.")
    buckets = make_buckets(config)
    pictures = [_picture(entry, path.parent, config, buckets, trigger) for entry in entries]
    twice = sorted(id for id, count in Counter(picture.id for picture in pictures).items() if count > 1)
    if twice:
        raise UserError(f"The list of pictures has {', '.join(twice)} more than once.", "Start the training again.")
    if not any(picture.repeats for picture in pictures):
        raise UserError("No picture would be shown: all have 0 repeats.", "Set the repeats of some to 1 or more.")
    return pictures + regularization_pictures(config, buckets)


def _picture(entry: dict, folder: Path, config: DataConfig, buckets: list[Size], trigger: str) -> Picture:
    try:
        file = folder / entry["file"]
        crop = tuple(float(edge) for edge in entry["crop"]) if entry.get("crop") else None
        size = cropped(entry["width"], entry["height"], crop)  # type: ignore[arg-type]
        mask = folder / entry["mask"] if entry.get("mask") else None
        caption, prose = entry.get("caption") or "", entry.get("prose") or ""
        repeats = int(entry.get("repeats", 1))
        if min(size) < 1 or repeats < 0 or not isinstance(caption, str) or not isinstance(prose, str):
            written = f"caption {caption!r:.40}, prose {prose!r:.40}"
            raise ValueError(f"{file.name} is {size[0]} x {size[1]}, {repeats} repeats, {written}")
        return Picture(
            id=str(entry["id"]),
            file=file,
            caption=caption,
            repeats=repeats,
            crop=crop,  # type: ignore[arg-type]
            size=size,
            sha256=entry.get("sha256") or sha256_file(file),
            bucket=assign(*size, config, buckets),
            resolution=config.resolution,
            mask=mask,
            mask_sha256=_mask_sha256(mask, file) if mask else "",
            alpha_mask=config.alpha_mask,
            background=entry.get("background", WHITE),
            prose=prose,
            trigger=trigger,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"An entry of the list of pictures is damaged ({error}).", "Start the training again."
        ) from error
    except OSError as error:
        raise UserError(
            f"The picture {entry['file']} cannot be read.", "Put it back, or reject it in Curation."
        ) from error


def _mask_sha256(mask: Path, picture: Path) -> str:
    try:
        return sha256_file(mask)
    except OSError as error:
        raise UserError(
            f"The mask {mask.name} of {picture.name} cannot be read ({error.strerror}).",
            "Put it back, or take the mask off the picture.",
        ) from error


def regularization_pictures(config: DataConfig, buckets: list[Size]) -> list[Picture]:
    """The pictures of data.regularization with the captions of their .txt files.

    Every file is decoded once here, so that all broken ones are named in one UserError before the training begins.
    """
    files = regularization.picture_files(config.regularization)
    if not files:
        return []
    root = Path(config.regularization).expanduser()
    with ThreadPoolExecutor() as pool:
        looked_at = list(pool.map(_size_or_reason, files))
    broken = [f"{file.name} ({found})" for file, found in zip(files, looked_at, strict=True) if isinstance(found, str)]
    if broken:
        raise regularization.broken_files(broken)
    return [
        Picture(
            id=f"regularization/{file.relative_to(root).as_posix()}",
            file=file,
            caption=_caption_beside(file),
            repeats=1,
            crop=None,
            size=size,
            sha256=sha256_file(file),
            bucket=assign(*size, config, buckets),
            resolution=config.resolution,
            alpha_mask=config.alpha_mask,
            regularization=True,
        )
        for file, size in zip(files, looked_at, strict=True)
        if not isinstance(size, str)
    ]


def _size_or_reason(file: Path) -> Size | str:
    try:
        return decode(file).size
    except ImageError as error:
        return str(error)


def _caption_beside(file: Path) -> str:
    """Text of the .txt file of the same name; empty when there is none."""
    try:
        text = captions.decode_text(file.with_suffix(".txt").read_bytes())
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(
            f"The caption of the regularisation picture {file.name} cannot be read ({error.strerror}).",
            "Check the .txt file beside it, or remove it.",
        ) from error
    return " ".join(text.split())


def at_sizes(pictures: list[Picture], config: DataConfig) -> dict[int, list[Picture]]:
    """The pictures in the shapes of each resolution trained in, the main one first."""
    found = {config.resolution: list(pictures)}
    for resolution in resolutions(config)[1:]:
        buckets = make_buckets(config, resolution)
        found[resolution] = [
            replace(picture, bucket=assign(*picture.size, config, buckets, resolution), resolution=resolution)
            for picture in pictures
        ]
    return found


def plan_for(pictures: list[Picture], config: TrainConfig, world: int = 1) -> StepPlan:
    """The number of steps for pictures as read, by the one formula."""
    own = [(*p.size, p.repeats, p.caption, p.prose) for p in pictures if not p.regularization]
    return steps_for(own, config, [picture.size for picture in pictures if picture.regularization], world)


# --- dealing --------------------------------------------------------------------------------------------------------

Turn = tuple[Picture, int]
"""A picture, and which of its repeats in the epoch."""


class Sampler:
    """Deals out the batches of every step.

    `world` processes with a batch of b see together exactly what one process with a batch of world * b sees: batches
    are dealt for all of them, and process `rank` takes every world-th sample, beginning at its rank.
    """

    def __init__(self, pictures: list[Picture], config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        own = [picture for picture in pictures if not picture.regularization]
        held = set(held_out_indices(len(own), config))
        self.training = [picture for index, picture in enumerate(own) if index not in held]
        """The pictures trained on, once each, at the main resolution."""
        self.held_out = [picture for index, picture in enumerate(own) if index in held]
        self.regularization = [picture for picture in pictures if picture.regularization]
        self.config, self.rank, self.world = config, rank, world
        self._repeats = sample_counts([(p.repeats, p.caption, p.prose) for p in self.training], config.data)
        self._training = at_sizes(self.training, config.data)
        self._regularization = at_sizes(self.regularization, config.data)
        self._epoch: tuple[int, list[list[Turn]]] = (-1, [])

    @property
    def shown(self) -> list[Picture]:
        """The pictures of the batches, once each, at the main resolution: without those held out."""
        return [*self.training, *self.regularization]

    def wanted(self) -> list[tuple[Picture, bool, int]]:
        """(picture, mirrored, variant) of everything that can come up, in training and validation."""
        data = self.config.data
        flips = (False, True) if data.flip else (False,)
        variants = range(VARIANTS if data.color_jitter or data.random_crop else 1)
        plain = [(picture, False, 0) for picture in [*self.training, *self.held_out]]
        shown = [picture for sizes in (self._training, self._regularization) for at in sizes.values() for picture in at]
        every = [(picture, flip, variant) for flip in flips for variant in variants for picture in shown]
        return list(dict.fromkeys(plain + every))

    def batches(self, step: int, steps_per_epoch: int) -> list[Batch]:
        """The batches that make up optimizer step `step` (1-based), one or more by gradient accumulation. With several
        processes, a share is empty where a batch has fewer samples than there are processes."""
        epoch, within = divmod(step - 1, steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._deal(epoch))
        size = self.config.run.gradient_accumulation
        chosen = self._epoch[1][within * size : (within + 1) * size]
        return [self._share(batch, epoch) for batch in chosen]

    def stand_in(self, total: int) -> Batch:
        """A share for a process without a picture in a batch of `total`, where it has to keep step with the others.
        What comes of it must not count."""
        return Batch([self._sample(self.training[0], 0, 0)], [0], total)

    def _share(self, batch: list[Turn], epoch: int) -> Batch:
        rows = list(range(self.rank, len(batch), self.world))
        return Batch([self._sample(*batch[row], epoch) for row in rows], rows, len(batch))

    def _deal(self, epoch: int) -> list[list[Turn]]:
        """All batches of an epoch: pictures shuffled within their shape, then the batches shuffled."""
        chance = random.Random(f"{self.config.run.seed} order {epoch}")
        shapes: dict[Size, list[Turn]] = defaultdict(list)
        for resolution, pictures in self._training.items():
            for picture, repeats in zip(pictures, self._repeats, strict=True):
                shapes[picture.bucket] += [(picture, turn) for turn in range(repeats)]
            for picture, turn in self._regularize(resolution, epoch):
                shapes[picture.bucket].append((picture, turn))
        batches = []
        size = self.config.data.batch_size * self.world
        for _, turns in sorted(shapes.items()):
            chance.shuffle(turns)
            batches += [turns[start : start + size] for start in range(0, len(turns), size)]
        chance.shuffle(batches)
        return batches

    def _regularize(self, resolution: int, epoch: int) -> Iterator[Turn]:
        """As many regularisation samples as there are training samples at this resolution.

        Each shape gets the same number in every epoch, so that all epochs have as many batches; within a shape they
        go round, so that over the epochs all pictures come up equally often.
        """
        shapes: dict[Size, list[Picture]] = defaultdict(list)
        for picture in self._regularization[resolution]:
            shapes[picture.bucket].append(picture)
        counts = share_out(sum(self._repeats), {size: len(deck) for size, deck in shapes.items()})
        for size, deck in sorted(shapes.items()):
            random.Random(f"{self.config.run.seed} regularization {resolution} {size}").shuffle(deck)
            for place in range(epoch * counts[size], (epoch + 1) * counts[size]):
                yield deck[place % len(deck)], place // len(deck)

    def _sample(self, picture: Picture, turn: int, epoch: int) -> Sample:
        data = self.config.data
        chance = chance_of(self.config, epoch, picture.id, turn, picture.resolution)
        flip, shown = draw(picture.words, data, chance)
        variant = chance.randrange(VARIANTS) if data.color_jitter or data.random_crop else 0
        return Sample(picture, shown, flip, variant, frame_of(picture, look_of(picture, flip, variant, data)))
