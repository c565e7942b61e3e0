import io
import zlib

import numpy as np
import pytest
from PIL import Image

from lora_studio.core import captions
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
        (encoded(Image.new("RGB", (3000, 20))), "strip"),
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
    assert captions.replace(caption, "blue hair", ["red hair", "long hair"]) == "zorbi, red hair, long hair, smile"
    assert captions.remove(caption, ["SMILE"]) == "zorbi, Blue hair"
    assert captions.add(caption, ["smile", "hat"]) == "zorbi, Blue hair, smile, hat"
    assert captions.with_trigger_first(["a", "Zorbi"], "zorbi") == ["zorbi", "a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_caption_file_is_read_in_any_encoding(encoding):
    assert captions.decode_text("café, blue hair".encode(encoding)) == "café, blue hair"
