"""The pixels that are trained on: how a picture is cropped, resized into its bucket, cut, coloured and mirrored.

No torch here: the page shows what these functions make, and the trainer encodes the very same (engine/picture.py).
"""

from dataclasses import dataclass

from PIL import Image, ImageEnhance

from lora_studio.engine.buckets import Size, fit

Frame = tuple[int, int, int, int, int, int]
Crop = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of width and height."""


@dataclass(frozen=True)
class Look:
    """How a picture is cut and coloured this time."""

    flip: bool = False
    place: tuple[float, float] | None = None
    """Where the bucket is cut out, from left to right and top to bottom in 0..1; None is the centre."""
    jitter: tuple[float, float, float] | None = None
    """Factors for brightness, contrast and saturation; None leaves the colours."""


def crop_box(width: int, height: int, crop: Crop | None) -> tuple[int, int, int, int]:
    """The crop in pixels, at least one pixel large, inside the picture."""
    x0, y0, x1, y1 = crop or (0.0, 0.0, 1.0, 1.0)
    new_width = min(width, max(1, round((x1 - x0) * width)))
    new_height = min(height, max(1, round((y1 - y0) * height)))
    left = min(max(0, round(x0 * width)), width - new_width)
    top = min(max(0, round(y0 * height)), height - new_height)
    return left, top, left + new_width, top + new_height


def cropped(width: int, height: int, crop: Crop | None) -> Size:
    """Size in pixels after the crop."""
    left, top, right, bottom = crop_box(width, height, crop)
    return right - left, bottom - top


def placed(width: int, height: int, bucket: Size, place: tuple[float, float] | None) -> tuple[Size, Size]:
    """Size to resize to so that the bucket is covered, and (left, top) of its cut; pixels."""
    size, centre = fit(width, height, bucket)
    if place is None:
        return size, centre
    left, top = (int(share * (long - short + 1)) for share, long, short in zip(place, size, bucket, strict=True))
    return size, (left, top)


def resized(image: Image.Image, crop: Crop | None, bucket: Size) -> Image.Image:
    """The cropped picture at the size that just covers the bucket."""
    part = image.crop(crop_box(*image.size, crop))
    return part.resize(fit(*part.size, bucket)[0], Image.Resampling.LANCZOS)


def cut(covering: Image.Image, original: Size, bucket: Size, look: Look) -> Image.Image:
    """The bucket out of what `resized` gave for a picture of `original` size after its crop, as the look has it."""
    _, (left, top) = placed(*original, bucket, look.place)
    image = covering.crop((left, top, left + bucket[0], top + bucket[1]))
    if look.jitter:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhancer, factor in zip(enhancers, look.jitter, strict=True):
            image = enhancer(image).enhance(factor)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if look.flip else image


def trained(image: Image.Image, crop: Crop | None, bucket: Size, look: Look | None = None) -> Image.Image:
    """RGB picture -> the RGB pixels of bucket size that are trained on; at the centre, unless the look says else."""
    return cut(resized(image, crop, bucket), cropped(*image.size, crop), bucket, look or Look())


def view(width: int, height: int, crop: Crop | None, bucket: Size) -> Crop:
    """What of the whole picture is trained on, as shares of it: the crop less what the bucket cuts off."""
    left, top, right, bottom = crop_box(width, height, crop)
    (wide, high), (x, y) = fit(right - left, bottom - top, bucket)
    across, down = (right - left) / wide, (bottom - top) / high
    return (
        (left + x * across) / width,
        (top + y * down) / height,
        (left + (x + bucket[0]) * across) / width,
        (top + (y + bucket[1]) * down) / height,
    )
