"""Pictures: decode completely and safely, normalise once, make thumbnails."""

import io
import warnings
from pathlib import Path

from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from lora_studio.core.files import write_bytes

MAX_BYTES = 200 * 2**20
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
EXTENSIONS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
}
ImageFile.LOAD_TRUNCATED_IMAGES = False


class ImageError(ValueError):
    """This file cannot be used as a picture; the text says why."""


def decode(source: Path | str | bytes) -> Image.Image:
    """Decode a picture into 8-bit sRGB as it is meant to be seen: EXIF turn applied, colour profile converted,
    transparency over white, first frame of an animation.

    Raises ImageError with the reason for anything that is no whole, safe picture.
    """
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file is too large ({len(data) // 2**20} MB, at most {MAX_BYTES // 2**20} MB)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit stands below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"too many pixels ({width} x {height}; at most {MAX_PIXELS // 10**6} million)")
            if min(width, height) < MIN_SIDE:
                raise ImageError(f"too small to learn from ({width} x {height}; each side at least {MIN_SIDE})")
            if max(width, height) > 20 * min(width, height):
                raise ImageError(f"a strip, not a picture ({width} x {height})")
            image.load()
            return _normalise(image)
    except UnidentifiedImageError:
        raise ImageError("not a picture in a format known here (" + ", ".join(FORMATS) + ")") from None
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"too many pixels (at most {MAX_PIXELS // 10**6} million)") from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, IndexError, KeyError) as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"damaged or cut off ({reason[:80]})") from None


def image_format(data: bytes) -> str:
    """File extension that fits the content, e.g. `.png`."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return EXTENSIONS[str(image.format)]


def thumbnail(image: Image.Image, side: int = 256) -> bytes:
    """WebP of the picture, its longer side at most `side`."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return webp(small, quality=82)


def webp(image: Image.Image, quality: int = 90) -> bytes:
    """The picture as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    """The picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path) -> None:
    """Write the picture as PNG, atomically."""
    write_bytes(path, png(image))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"the file is too large (at most {MAX_BYTES // 2**20} MB)")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror or error})") from None


def _normalise(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16-bit grey: keep the high byte
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif image.mode == "F":
        image = image.convert("L")
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    alpha = image.convert("RGBA").getchannel("A") if transparent else None
    colours = image.convert("RGBA").convert("RGB") if transparent else image
    if profile and colours.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            colours = converted or colours
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile: the bare colours are the best there is
    colours = colours.convert("RGB")
    if alpha is None:
        return colours
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=alpha)
    return white
