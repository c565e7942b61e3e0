import io
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from lora_studio.core import captions, images
from lora_studio.core.images import ImageError, decode


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width=40, height=30) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 6, y * 8, x + y], -1).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_turn_gives_the_same_pixels(orientation):
    # PIL's transposes that turn the seen picture into the stored one, in the order of EXIF's orientations 2 to 8
    turns = (0, 3, 1, 5, 2, 6, 4)
    stored = gradient() if orientation == 1 else gradient().transpose(Image.Transpose(turns[orientation - 2]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(decode(encoded(stored, exif=exif))), np.asarray(gradient()))


def test_transparency_lies_over_white_and_hides_its_colour():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert np.asarray(decode(encoded(image))).min() == 255


def test_transparency_lies_over_the_chosen_colour():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((0, 255, 0, 255), (0, 0, 10, 20))
    pixels = decode(encoded(image), "#102030")
    assert (pixels.getpixel((2, 5)), pixels.getpixel((15, 5))) == ((0, 255, 0), (16, 32, 48))
    palette = image.convert("RGB").convert("P")
    palette.info["transparency"] = palette.getpixel((15, 5))
    data = encoded(palette, transparency=palette.getpixel((15, 5)))
    assert decode(data, "#102030").getpixel((15, 5)) == (16, 32, 48)


@pytest.mark.parametrize("format", ["HEIF", "AVIF", "WEBP", "JXL"])
def test_pictures_of_phones_and_the_web_are_read(format):
    """HEIF and JXL by packages that are imported only then; the extension tells the content."""
    if format == "JXL":
        import pillow_jxl  # noqa: F401
    if format == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    data = encoded(gradient(64, 48), format, quality=95)
    difference = np.asarray(decode(data)).astype(int) - np.asarray(gradient(64, 48)).astype(int)
    assert np.abs(difference).mean() < 12
    assert images.image_format(data) == images.EXTENSIONS[format]
    with pytest.raises(ImageError, match=r"damaged|not a picture"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(("format", "remedy"), [("JXL", "lora-studio[jxl]"), ("HEIF", "pillow-heif")])
def test_a_format_whose_package_is_missing_is_refused_by_its_name(monkeypatch, format, remedy):
    starts = {"JXL": b"\xff\x0a", "HEIF": b"\0\0\0\x1cftypheic"}
    monkeypatch.setitem(sys.modules, images.PLUGINS[format], None)  # as if it were not installed
    with pytest.raises(ImageError) as caught:
        decode(starts[format] + bytes(100))
    assert remedy in str(caught.value)


def test_a_colour_profile_is_converted_and_a_broken_one_passed_over():
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = np.asarray(decode(encoded(gradient())))
    assert np.abs(np.asarray(decode(encoded(gradient(), icc_profile=swapped))).astype(int) - plain).max() <= 1
    assert np.array_equal(np.asarray(decode(encoded(gradient(), icc_profile=b"nonsense"))), plain)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    source = gradient().convert("L") if mode == "I;16" else gradient()
    image = Image.fromarray(np.asarray(source).astype(np.uint16) * 257) if mode == "I;16" else source.convert(mode)
    result = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert (result.mode, result.size) == ("RGB", (40, 30))
    if mode == "I;16":
        assert np.array_equal(np.asarray(result)[..., 0], np.asarray(source))


def bomb() -> bytes:
    header = encoded(Image.new("1", (64, 64)))
    chunk = b"IHDR" + (60_000).to_bytes(4, "big") + (60_000).to_bytes(4, "big") + header[24:29]
    return header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not a picture"),
        (encoded(gradient(200, 200))[:-400], "cut off"),
        (encoded(Image.new("RGB", (1, 1))), "too small"),
        (encoded(Image.new("RGB", (30_000, 20))), "strip"),
        (bomb(), "too many pixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    result = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert result.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("tags", [["zorbi", "blue hair"], [], ["a", "b c", "d"]])
def test_split_and_join_are_each_others_inverse(tags):
    assert captions.split(captions.join(tags)) == tags


def test_caption_edits_keep_the_order():
    caption = "zorbi, Blue hair, smile"
    assert captions.remove(caption, ["SMILE"]) == "zorbi, Blue hair"
    assert captions.with_trigger_first(["a", "Zorbi"], "zorbi") == ["zorbi", "a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_caption_file_is_read_in_any_encoding(encoding):
    assert captions.decode_text("café, blue hair".encode(encoding)) == "café, blue hair"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("青い髪, 帽子".encode("cp932"), "青い髪, 帽子"),
        ("帽子, 眼鏡".encode("cp932"), "帽子, 眼鏡"),
        ("été, façade, ação, it\u2019s".encode("cp1252"), "été, façade, ação, it\u2019s"),
        ("blue hair".encode("utf-16-le"), "blue hair"),
        ("blue hair".encode("utf-16-be"), "blue hair"),
        ("青い髪".encode("utf-16"), "青い髪"),
        ("it’s blue".encode("cp1252"), "it’s blue"),  # these bytes could be CP932 as well
        (b"a, \x00b", "a, b"),
        (b"", ""),
        (b"\xff\xfe\x00", "\ufffd"),
    ],
)
def test_what_an_encoding_is_follows_from_the_bytes(data, text):
    assert captions.decode_text(data) == text
