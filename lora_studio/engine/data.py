"""The pictures of a training: read from dataset.json, put into buckets, and dealt out step by step.

Which pictures, in which order and with which caption, is a function of seed and step alone, so that a resumed run
goes on exactly where the old one would have been.
"""

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file
from lora_studio.core.images import ImageError, decode
from lora_studio.engine.buckets import Size, assign, fit, held_out_indices, make_buckets
from lora_studio.engine.config import DataConfig, TrainConfig


@dataclass(frozen=True)
class Picture:
    """One picture of the set and the shape it is trained in."""

    id: str
    file: Path
    caption: str
    repeats: int
    crop: tuple[float, float, float, float] | None
    """Left, top, right, bottom as shares of width and height."""
    size: Size
    """Width and height after the crop, pixels."""
    sha256: str
    bucket: Size


@dataclass(frozen=True)
class Sample:
    """One picture as it comes up in a step."""

    picture: Picture
    caption: str
    flip: bool


def read_dataset(path: Path, config: DataConfig) -> list[Picture]:
    """The pictures of dataset.json. Raises UserError naming what is missing or damaged."""
    try:
        entries = json.loads(path.read_text("utf-8"))["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The list of pictures {path.name} cannot be read ({error}).", "Start the training again."
        ) from error
    if not entries:
        raise UserError("There are no pictures to train on.", "Add pictures in Gathering and keep some in Curation.")
    buckets = make_buckets(config)
    return [_picture(entry, path.parent, config, buckets) for entry in entries]


def _picture(entry: dict, folder: Path, config: DataConfig, buckets: list[Size]) -> Picture:
    try:
        file = folder / entry["file"]
        crop = tuple(float(edge) for edge in entry["crop"]) if entry.get("crop") else None
        size = cropped(entry["width"], entry["height"], crop)  # type: ignore[arg-type]
        return Picture(
            id=str(entry["id"]),
            file=file,
            caption=entry.get("caption") or "",
            repeats=int(entry.get("repeats", 1)),
            crop=crop,  # type: ignore[arg-type]
            size=size,
            sha256=entry.get("sha256") or sha256_file(file),
            bucket=assign(*size, config, buckets),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"An entry of the list of pictures is damaged ({error}).", "Start the training again."
        ) from error
    except OSError as error:
        raise UserError(
            f"The picture {entry['file']} cannot be read.", "Put it back, or reject it in Curation."
        ) from error


def cropped(width: int, height: int, crop: tuple[float, float, float, float] | None) -> Size:
    """Size in pixels after the crop."""
    left, top, right, bottom = crop_box(width, height, crop)
    return right - left, bottom - top


def crop_box(width: int, height: int, crop: tuple[float, float, float, float] | None) -> tuple[int, int, int, int]:
    """The crop in pixels, at least one pixel large, inside the picture."""
    x0, y0, x1, y1 = crop or (0.0, 0.0, 1.0, 1.0)
    new_width = min(width, max(1, round((x1 - x0) * width)))
    new_height = min(height, max(1, round((y1 - y0) * height)))
    left = min(max(0, round(x0 * width)), width - new_width)
    top = min(max(0, round(y0 * height)), height - new_height)
    return left, top, left + new_width, top + new_height


def load_pixels(picture: Picture, flip: bool) -> Tensor:
    """(3, bucket height, bucket width) in -1..1: cropped, resized to cover the bucket, cut at the centre."""
    try:
        image = decode(picture.file)
    except ImageError as error:
        raise UserError(
            f"The picture {picture.file.name} cannot be used: {error}.", "Reject it in Curation, or replace the file."
        ) from error
    image = image.crop(crop_box(*image.size, picture.crop))
    size, (left, top) = fit(*image.size, picture.bucket)
    image = image.resize(size, Image.Resampling.LANCZOS)
    image = image.crop((left, top, left + picture.bucket[0], top + picture.bucket[1]))
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    if flip:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class Sampler:
    """Deals out the batches of every step."""

    def __init__(self, pictures: list[Picture], config: TrainConfig) -> None:
        held = set(held_out_indices(len(pictures), config))
        self.training = [picture for index, picture in enumerate(pictures) if index not in held]
        self.held_out = [picture for index, picture in enumerate(pictures) if index in held]
        self.config = config
        self._epoch: tuple[int, list[list[tuple[Picture, int]]]] = (-1, [])

    def batches(self, step: int, steps_per_epoch: int) -> list[list[Sample]]:
        """The batches that make up optimizer step `step` (1-based), one or more by gradient accumulation."""
        epoch, within = divmod(step - 1, steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._deal(epoch))
        size = self.config.run.gradient_accumulation
        chosen = self._epoch[1][within * size : (within + 1) * size]
        return [[self._sample(picture, turn, epoch) for picture, turn in batch] for batch in chosen]

    def _deal(self, epoch: int) -> list[list[tuple[Picture, int]]]:
        """All batches of an epoch: pictures shuffled within their shape, then the batches shuffled."""
        chance = random.Random(f"{self.config.run.seed} order {epoch}")
        shapes: dict[Size, list[tuple[Picture, int]]] = defaultdict(list)
        for picture in self.training:
            shapes[picture.bucket] += [(picture, turn) for turn in range(picture.repeats * self.config.data.repeats)]
        batches = []
        size = self.config.data.batch_size
        for _, turns in sorted(shapes.items()):
            chance.shuffle(turns)
            batches += [turns[start : start + size] for start in range(0, len(turns), size)]
        chance.shuffle(batches)
        return batches

    def _sample(self, picture: Picture, turn: int, epoch: int) -> Sample:
        chance = random.Random(f"{self.config.run.seed} sample {epoch} {picture.id} {turn}")
        flip = self.config.data.flip and chance.random() < 0.5
        return Sample(picture, vary_caption(picture.caption, self.config.data, chance), flip)


def vary_caption(caption: str, config: DataConfig, chance: random.Random) -> str:
    """The caption as shown this time: dropped, shuffled, thinned out; the first `keep_tokens` tags stay in front."""
    if chance.random() < config.caption_dropout:
        return ""
    if not config.shuffle_tags and not config.tag_dropout:
        return caption
    tags = captions.split(caption)
    kept, rest = tags[: config.keep_tokens], tags[config.keep_tokens :]
    if config.tag_dropout:
        rest = [tag for tag in rest if chance.random() >= config.tag_dropout]
    if config.shuffle_tags:
        chance.shuffle(rest)
    return captions.join(kept + rest)
