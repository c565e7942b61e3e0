"""Crops that need no drawing: to an aspect, to the face, to the subject; and the pixels that are trained on."""

import math
from collections.abc import Callable

from PIL import Image as Pil

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.images import ImageError
from lora_studio.core.project import Box, Image, Project
from lora_studio.engine import pixels
from lora_studio.engine.buckets import assign, resolutions
from lora_studio.engine.config import TrainConfig
from lora_studio.steps import looking, seeing

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
FACE_TO_FRAME = 3.0
"""A crop to the face is this many faces wide and high: head, hair and shoulders. Chosen by eye."""
FACE_BELOW = 0.15
"""How far the middle of that crop lies below the middle of the face, in its own heights: there is more to see of
shoulders than above the hair."""
AIR = 0.06
"""Air around the subject, as a share of its longer side."""


def to_aspect(image: Image, aspect: tuple[float, float], around: Box | None = None) -> Box:
    """The largest box of that aspect (width, height) inside the picture, its middle as near as can be to the middle of
    `around` (else of the picture's crop). Raises UserError for an aspect that is none."""
    left, top, right, bottom = around or image.crop or WHOLE
    share = _share(aspect) / (image.width / image.height)
    wide, high = (1.0, 1 / share) if share > 1 else (share, 1.0)
    return _placed((left + right) / 2, (top + bottom) / 2, wide, high)


def to_face(project: Project, image_id: int) -> Box:
    """A square around the largest face, with hair and shoulders. Raises UserError where no face is known."""
    image = project.image(image_id)
    faces = looking.faces(project, image)
    if faces is None:
        raise UserError(f"Nobody has looked for faces in {image.name} yet.", "Wait until the pictures were looked at.")
    if not faces:
        raise UserError(f"No face was found in {image.name}.", "Draw the crop by hand.")
    left, top, right, bottom = max(faces, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    side = FACE_TO_FRAME * max((right - left) * image.width, (bottom - top) * image.height)  # pixels
    side = min(side, image.width, image.height)
    middle = (top + bottom) / 2 + FACE_BELOW * side / image.height
    return _placed((left + right) / 2, middle, side / image.width, side / image.height)


def to_subject(project: Project, image_id: int) -> Box:
    """Around the subject as `seeing.subject` outlines it, with a little air. Raises UserError where there is none."""
    image = project.image(image_id)
    mask = seeing.subject(project.original_path(image))
    found = mask.getbbox()
    if found is None or mask.getextrema() == (255, 255):
        raise UserError(f"No subject stands out in {image.name}.", "Draw the crop by hand.")
    air = AIR * max(found[2] - found[0], found[3] - found[1])
    left, top = max(0.0, found[0] - air), max(0.0, found[1] - air)
    right, bottom = min(image.width, found[2] + air), min(image.height, found[3] + air)
    return left / image.width, top / image.height, right / image.width, bottom / image.height


def named(words: str) -> Callable[[Project, int], Box]:
    """The way to crop that words ask for: `face`, `subject`, or a shape such as `3:4`. Raises UserError for others."""
    if words in ("face", "subject"):
        return to_face if words == "face" else to_subject
    width, _, height = words.partition(":")
    try:
        aspect = float(width), float(height)
    except ValueError:
        raise UserError(f"{words} is nothing to crop to.", "Choose face, subject, or a shape such as 3:4.") from None
    _share(aspect)
    return lambda project, image_id: to_aspect(project.image(image_id), aspect)


def _share(aspect: tuple[float, float]) -> float:
    width, height = aspect
    if not (0 < width < math.inf and 0 < height < math.inf and 1 / 20 <= width / height <= 20):
        raise UserError(f"{width:g}:{height:g} is no shape to crop to.", "Name it as width:height, e.g. 3:4.")
    return width / height


def trained_pixels(
    project: Project, config: TrainConfig, image_id: int, number: int = 0, resolution: int = 0, flip: bool = False
) -> Pil.Image:
    """The RGB pixels that the trainer encodes for crop `number` (from 0) of a picture, at a resolution that is trained
    (0 for the main one), equal bit for bit. Raises UserError when there are none."""
    image = project.image(image_id)
    if not 0 <= number < len(image.crops):
        raise UserError(f"{image.name} has no crop {number + 1}.", f"It has {len(image.crops)}.")
    return trained_part(project, config, image, image.crops[number], resolution, flip)


def trained_part(
    project: Project, config: TrainConfig, image: Image, crop: Box | None, resolution: int = 0, flip: bool = False
) -> Pil.Image:
    """The same for a crop that need not be saved, None for the whole picture."""
    if resolution and resolution not in resolutions(config.data):
        known = ", ".join(map(str, resolutions(config.data)))
        raise UserError(f"Nothing is trained at {resolution}.", f"Trained sizes: {known}.")
    bucket = assign(*pixels.cropped(image.width, image.height, crop), config.data, resolution=resolution or None)
    try:
        picture = images.decode(project.original_path(image), project.plan.background)
    except ImageError as error:
        raise UserError(f"{image.name} cannot be used: {error}.", "Reject it, or put the file back.") from error
    return pixels.trained(picture, crop, bucket, pixels.Look(flip))


def _placed(x: float, y: float, width: float, height: float) -> Box:
    """A box of that size with its middle as near to (x, y) as the picture allows; all as shares."""
    left = min(max(0.0, x - width / 2), 1 - width)
    top = min(max(0.0, y - height / 2), 1 - height)
    return left, top, min(1.0, left + width), min(1.0, top + height)
