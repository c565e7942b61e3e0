"""One picture: the shape it is trained in, the looks it comes up in, its pixels and its mask."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lora_studio.core.errors import UserError
from lora_studio.core.images import WHITE, ImageError, decode, transparency
from lora_studio.engine.buckets import Size, fit
from lora_studio.engine.config import DataConfig
from lora_studio.engine.pixels import Crop, Frame, Look, crop_box, cropped, cut, placed, resized
from lora_studio.engine.wording import Words

VARIANTS = 4
"""Looks kept of each picture with data.random_crop or data.color_jitter: as it is, and three by chance. Latents of so
many are encoded once, in place of a new one in every step."""


@dataclass(frozen=True)
class Picture:
    """One picture of the set and the shape it is trained in."""

    id: str
    file: Path
    caption: str
    repeats: int
    crop: Crop | None
    size: Size
    """Width and height after the crop, pixels."""
    sha256: str
    bucket: Size
    resolution: int = 512
    """The size of data.resolution or data.more_resolutions that the bucket belongs to."""
    mask: Path | None = None
    """A grey picture of the same view: white is learned, black counts as objective.mask_outside says."""
    mask_sha256: str = ""
    alpha_mask: bool = False
    """Whether its own transparency is a mask as well."""
    regularization: bool = False
    background: str = WHITE
    """What lies under its transparent parts."""
    prose: str = ""
    """Sentences beside the tags of `caption`."""
    trigger: str = ""
    """The word in front of its words; regularisation pictures have none."""

    @property
    def words(self) -> Words:
        """What is written of it."""
        return Words(self.caption, self.prose, self.trigger)

    @property
    def frame(self) -> Frame:
        """What SDXL is told of it, cut at the centre: see `frame_of`."""
        return frame_of(self, Look())


def look_of(picture: Picture, flip: bool, variant: int, config: DataConfig) -> Look:
    """The look of a variant (0 to VARIANTS - 1), a function of the picture alone so that runs share what is encoded.

    Variant 0 is the centre in its own colours. A picture that fills its bucket has only one place.
    """
    if variant == 0:
        return Look(flip)
    chance = random.Random(f"{picture.sha256} variant {variant}")
    place = chance.random(), chance.random()
    amounts = [config.color_jitter * chance.uniform(-1, 1) for _ in range(3)]
    movable = config.random_crop and fit(*picture.size, picture.bucket)[0] != picture.bucket
    jitter = (1 + amounts[0], 1 + amounts[1], 1 + amounts[2]) if config.color_jitter else None
    return Look(flip, place if movable else None, jitter)


def frame_of(picture: Picture, look: Look) -> Frame:
    """Pixels: height and width after the user's crop; top and left of the bucket's cut in the resized picture (as
    mirrored, where it is); height and width of the bucket."""
    size, (left, top) = placed(*picture.size, picture.bucket, look.place)
    if look.flip:
        left = size[0] - picture.bucket[0] - left
    return picture.size[1], picture.size[0], top, left, picture.bucket[1], picture.bucket[0]


# --- pixels ---------------------------------------------------------------------------------------------------------


def load_pixels(picture: Picture, looks: Sequence[Look]) -> list[Tensor]:
    """(3, bucket height, bucket width) in -1..1 for each look: cropped, resized to cover the bucket, cut, coloured.

    Raises UserError naming the file when it cannot be used.
    """
    image = _decoded(picture.file, picture)
    covering = resized(image, picture.crop, picture.bucket)
    original = cropped(*image.size, picture.crop)
    return [_tensor(cut(covering, original, picture.bucket, look)) for look in looks]


def _tensor(image: Image.Image) -> Tensor:
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _decoded(file: Path, picture: Picture) -> Image.Image:
    try:
        return decode(file, picture.background if file == picture.file else WHITE)
    except ImageError as error:
        what = "picture" if file == picture.file else f"mask of {picture.file.name}, "
        mend = "Reject it in Curation, or replace the file."
        if picture.regularization:
            what, mend = "regularisation picture", "Remove it from the folder of data.regularization, or replace it."
        raise UserError(f"The {what} {file.name} cannot be used: {error}.", mend) from error


# --- masks ----------------------------------------------------------------------------------------------------------


def may_have_mask(picture: Picture) -> bool:
    """Whether a mask is to be looked for."""
    return picture.mask is not None or picture.alpha_mask


def load_masks(picture: Picture, looks: Sequence[Look], latent_size: Size) -> list[Tensor]:
    """(1, h, w) in 0..1 for each look, cut and mirrored with the picture, averaged to latents of `latent_size` (h, w).

    The mask file and the picture's own transparency are multiplied; a picture with neither gives ones. Raises
    UserError when nothing is left to learn.
    """
    sources = [] if picture.mask is None else [_decoded(picture.mask, picture).convert("L")]
    if picture.alpha_mask and (alpha := transparency(picture.file)) is not None:
        sources.append(alpha)
    if not sources:
        return [torch.ones(1, *latent_size) for _ in looks]
    size, _ = fit(*picture.size, picture.bucket)
    whole = np.ones(size[::-1], dtype=np.float32)
    for source in sources:
        part = source.crop(crop_box(*source.size, picture.crop)).resize(size, Image.Resampling.BILINEAR)
        whole = whole * (np.asarray(part, dtype=np.float32) / 255)
    if not whole.any():
        raise UserError(
            f"The mask of {picture.file.name} leaves nothing to learn: it is black or the picture is transparent.",
            "Correct the mask, take it off, or reject the picture in Curation.",
        )
    return [_mask_seen(whole, picture, look, latent_size) for look in looks]


def _mask_seen(whole: np.ndarray, picture: Picture, look: Look, latent_size: Size) -> Tensor:
    _, (left, top) = placed(*picture.size, picture.bucket, look.place)
    part = whole[top : top + picture.bucket[1], left : left + picture.bucket[0]]
    if look.flip:
        part = part[:, ::-1]
    return adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(part))[None], latent_size)
