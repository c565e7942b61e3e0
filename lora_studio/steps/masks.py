"""Masks: which part of a picture is learned. White counts, black counts as objective.mask_outside says.

A mask is of the whole picture, grey and of its size, whatever the crops: the trainer cuts both alike.
"""

import io

from PIL import Image as Pil

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.project import Box, Image, Project
from lora_studio.steps import seeing

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 100_000_000
FORMATS = ("PNG", "WEBP")


def automatic(project: Project, image_id: int, box: Box | None = None) -> bytes:
    """PNG of the subject's outline, to be looked at before it is saved; `box` says where the subject is. Takes a
    second or two. Raises UserError when nothing is found."""
    image = project.image(image_id)
    mask = seeing.subject(project.original_path(image), box)
    if mask.getextrema() in ((0, 0), (255, 255)):
        raise UserError(f"No subject stands out in {image.name}.", "Draw a box around it, or paint it by hand.")
    return images.png(mask)


def save(project: Project, image_id: int, png: bytes | None) -> str:
    """Give a picture this mask, None to take it off; one undo entry. It is made grey and of the picture's size; one
    that is white all over is none. Returns the SHA-256 that the picture holds now. Raises UserError for a mask that is
    no picture, has another shape, is too large, or leaves nothing to learn."""
    image = project.image(image_id)
    digest = ""
    if png is not None:
        mask = _fitted(png, image)
        low, high = mask.getextrema()
        if high == 0:
            raise UserError(
                "This mask is black: nothing would be learned.", "Paint what counts, or reject the picture."
            )
        digest = "" if low == 255 else project.add_mask(images.png(mask))
    with project.edit("Mask" if digest else "Take off the mask") as edit:
        edit.set(image_id, mask=digest)
    return digest


def _fitted(png: bytes, image: Image) -> Pil.Image:
    if len(png) > MAX_BYTES:
        raise UserError(f"The mask is too large ({len(png) // 2**20} MB).", f"At most {MAX_BYTES // 2**20} MB.")
    try:
        with Pil.open(io.BytesIO(png), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise UserError(f"The mask is too large ({width} x {height}).", "Make it the size of the picture.")
            opened.load()
            mask = _grey(opened)
    except (OSError, ValueError, SyntaxError, EOFError, Pil.DecompressionBombError) as error:
        raise UserError(f"The mask cannot be read ({str(error)[:80]}).", "Save it as a PNG and try again.") from error
    # the page draws on a copy of at most 2048 px, so a rounded side is let through
    if abs(width * image.height - height * image.width) > max(image.width, image.height, width, height):
        raise UserError(
            f"The mask is {width} x {height}, but {image.name} is {image.width} x {image.height}.",
            "Draw it on the whole picture.",
        )
    size = (image.width, image.height)
    return mask if mask.size == size else mask.resize(size, Pil.Resampling.BILINEAR)


def _grey(opened: Pil.Image) -> Pil.Image:
    """Brightness, and what is transparent is black: a brush's canvas starts out empty."""
    if opened.mode == "L" and "transparency" not in opened.info:
        return opened.copy()
    coloured = opened.convert("RGBA")
    black = Pil.new("RGBA", coloured.size, (0, 0, 0, 255))
    return Pil.alpha_composite(black, coloured).convert("L")
