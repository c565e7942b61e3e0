"""Pictures: decode completely and safely, normalise once, make thumbnails."""

import importlib
import io
import struct
import warnings
from pathlib import Path

from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from lora_studio.core.files import write_bytes

MAX_BYTES = 200 * 2**20
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
WHITE = "#ffffff"
"""What lies under transparent pictures where nothing else is chosen."""
EXTENSIONS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "HEIF": ".heic",
    "JXL": ".jxl",
}
PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
"""Formats that a package of their own reads; it is imported when the first such picture comes."""
FORMATS = tuple(name for name in EXTENSIONS if name not in PLUGINS)
UNKNOWN = f"not a picture in a format known here ({', '.join(EXTENSIONS)})"
HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
"""Of ISO/IEC 23008-12, in the first box of the file; AVIF has brands of its own."""
MISSING = {
    "HEIF": "a HEIC picture; install pillow-heif to read it, or save it as PNG",
    "JXL": 'a JPEG XL picture; install the extra "jxl" (pip install "lora-studio[jxl]") to read it, or save it as PNG',
}
JXL_STARTS: tuple[bytes, ...] = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", *JXL_STARTS)
ImageFile.LOAD_TRUNCATED_IMAGES = False
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is our own limit
# what decoders raise for broken data; pillow_heif and pillow_jxl use RuntimeError, struct.error stands in old plugins
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, IndexError, KeyError, RuntimeError)
DAMAGED = (*DAMAGED, TypeError, struct.error)


class ImageError(ValueError):
    """This file cannot be used as a picture; the text says why."""


def decode(source: Path | str | bytes, background: str = WHITE, draft: int = 0) -> Image.Image:
    """Decode a picture into 8-bit sRGB as it is meant to be seen: EXIF turn applied, colour profile converted,
    transparency over the background ("#rrggbb"), first frame of an animation. With `draft` a large JPEG comes at a
    half, a quarter or an eighth of its size, no side below `draft` pixels, in a fraction of the time.

    Raises ImageError with the reason for anything that is no whole, safe picture.
    """
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file is too large ({len(data) // 2**20} MB, at most {MAX_BYTES // 2**20} MB)")
    try:
        image = _open(data)
        _check_size(*image.size)
        if draft:
            image.draft(None, (draft, draft))
        image.load()
        return _normalise(image, background)
    except UnidentifiedImageError:
        raise ImageError(UNKNOWN) from None
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"too many pixels (at most {MAX_PIXELS // 10**6} million)") from None
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"damaged or cut off ({reason[:80]})") from None


def check_start(head: bytes) -> None:
    """Raises ImageError when a file that begins so (16 bytes are enough) cannot be a picture: what makes it
    needless to read, or unpack, the rest."""
    if not head:
        raise ImageError("the file is empty (0 bytes)")
    known = head.startswith(STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:8] == b"ftyp"
    if not known:
        raise ImageError(UNKNOWN)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"too many pixels ({width} x {height}; at most {MAX_PIXELS // 10**6} million)")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"too small to learn from ({width} x {height}; each side at least {MIN_SIDE})")
    if max(width, height) > 20 * min(width, height):
        raise ImageError(f"a strip, not a picture ({width} x {height})")


def image_format(data: bytes) -> str:
    """File extension that fits the content, e.g. `.png`, of data that can be decoded."""
    with _open(data) as image:
        return EXTENSIONS[str(image.format)]


def num_pixels(data: bytes) -> int:
    """How many pixels decoding would make, by the header alone; 0 for what is no picture."""
    try:
        with _open(data) as image:
            return image.width * image.height
    except (UnidentifiedImageError, Image.DecompressionBombError, ImageError, *DAMAGED):
        return 0


def transparency(source: Path) -> Image.Image | None:
    """How much is to be seen at each pixel (255 all), turned as EXIF says; None for a picture without transparency.
    For a file that `decode` has taken."""
    with _open(source.read_bytes()) as opened:
        image = ImageOps.exif_transpose(opened)
        return image.convert("RGBA").getchannel("A") if _is_transparent(image) else None


def _open(data: bytes) -> Image.Image:
    """The picture by its content. Raises ImageError when a package is missing that reads its format."""
    plugin = "HEIF" if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS else ""
    plugin = "JXL" if data.startswith(JXL_STARTS) else plugin
    if not plugin:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    try:
        module = importlib.import_module(PLUGINS[plugin])
    except ImportError:
        raise ImageError(MISSING[plugin]) from None
    if plugin == "HEIF" and "HEIF" not in Image.OPEN:
        module.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=(plugin, "AVIF"))  # mif1 may hold either


def thumbnail(image: Image.Image, side: int = 256) -> bytes:
    """WebP of the picture, its longer side at most `side`."""
    scale = min(1.0, side / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # first in whole blocks to twice the size: a quarter of the time, and nobody sees it
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0) if scale < 1 else image
    return webp(small, quality=82, effort=2)


def webp(image: Image.Image, quality: int = 90, effort: int = 4) -> bytes:
    """The picture as WebP. `effort` 0 to 6 trades time for size: 2 takes three quarters of the time of 4, for 3 % more
    bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=effort)
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


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _normalise(image: Image.Image, background: str) -> Image.Image:
    profile = image.info.get("icc_profile")
    ImageOps.exif_transpose(image, in_place=True)  # no copy where nothing is to be turned
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16-bit grey: keep the high byte
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif image.mode == "F":
        image = image.convert("L")
    transparent = _is_transparent(image)
    alpha = image.convert("RGBA").getchannel("A") if transparent else None
    colours = image.convert("RGBA").convert("RGB") if transparent or image.mode == "P" else image
    if profile and colours.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            colours = converted or colours
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile: the bare colours are the best there is
    if colours.mode != "RGB":
        colours = colours.convert("RGB")
    if alpha is None:
        return colours
    under = Image.new("RGB", colours.size, background)
    under.paste(colours, mask=alpha)
    return under
