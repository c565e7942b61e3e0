import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_studio.core import paths
from lora_studio.judge.measures import Measures, measure

ART = paths.assets() / "starter" / "samples"


def art(kind="style", name="papercut_03", size=None):
    image = Image.open(ART / kind / "images" / f"{name}.png").convert("RGB")
    return image if size is None else image.resize(size, Image.Resampling.LANCZOS)


def textured(side=384):
    """A smooth picture with the grain of a photograph."""
    generator = np.random.default_rng(1)
    coarse = Image.fromarray(generator.integers(30, 220, (12, 12, 3), np.uint8)).resize((side, side), Image.BICUBIC)
    grain = generator.normal(0, 4, (side, side, 1))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def saved(image, quality, scale=1.0):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    again = Image.open(buffer).convert("RGB")
    return again if scale == 1 else again.resize([round(side * scale) for side in again.size], Image.BICUBIC)


def seen(image):
    return measure(np.asarray(image))


def test_what_is_kept_is_what_was_measured():
    found = seen(art())
    assert Measures.from_bytes(found.to_bytes()) == found


def test_the_hash_of_the_mirrored_picture_is_known_without_mirroring():
    for name in ("papercut_03", "papercut_04", "papercut_05"):
        one, other = seen(art(name=name)), seen(art(name=name).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        assert (one.mirrored ^ other.phash).bit_count() <= 2 and (other.mirrored ^ one.phash).bit_count() <= 2
        assert (one.phash ^ other.phash).bit_count() > 8


def test_light_is_measured_in_shares_of_white():
    ramp = np.repeat(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    found = seen(Image.fromarray(ramp))
    assert found.brightness == pytest.approx(0.5, abs=0.01) and found.contrast == pytest.approx(0.289, abs=0.005)
    assert found.darkest == pytest.approx(0.01, abs=0.005) and found.lightest == pytest.approx(0.99, abs=0.005)
    assert found.blacks == pytest.approx(5 / 256) and found.whites == pytest.approx(5 / 256)
    half = Image.fromarray(np.concatenate([np.zeros_like(ramp), np.full_like(ramp, 255)]))
    assert seen(half).blacks == pytest.approx(0.5) and seen(half).whites == pytest.approx(0.5)


def test_blocks_of_jpeg_stand_out_the_more_it_was_compressed():
    values = [seen(saved(textured(), quality)).blockiness for quality in (90, 40, 10)]
    assert seen(textured()).blockiness == 0 and values[0] < 1 < values[1] < values[2]


@pytest.mark.parametrize("scale", [0.6, 0.75, 1.5])
def test_blocks_are_seen_after_the_picture_was_resized(scale):
    assert seen(saved(textured(640), 10, scale)).blockiness > 0.5
    assert seen(saved(textured(640), 100, scale)).blockiness == 0


def test_blocks_are_seen_in_a_picture_that_is_averaged_for_the_other_measures():
    part = saved(textured(640), 10)
    page = Image.new("RGB", (3100, 660), "grey")  # averaged in blocks of 3 pixels
    page.paste(part, (1230 - 640 + 2, 10))
    page.paste(part, (1230 + 2, 10))
    middle = page.crop((1038, 0, 1038 + 1024, 660))
    assert seen(page).blockiness == seen(middle).blockiness > 0.5


def test_the_grid_of_enlarged_pixel_art_is_no_jpeg():
    small = Image.fromarray(np.random.default_rng(2).integers(0, 2, (40, 40, 1), np.uint8).repeat(3, axis=2) * 200)
    assert seen(small.resize((320, 320), Image.NEAREST)).blockiness == 0


@pytest.mark.parametrize("colour", ["black", "white", (40, 90, 120)])
def test_bars_are_measured_on_each_side(colour):
    page = Image.new("RGB", (400, 500), colour)
    page.paste(textured(300), (60, 100))
    assert seen(page).borders == pytest.approx((0.15, 0.2, 0.1, 0.2), abs=0.005)
    assert seen(saved(page, 60)).borders == pytest.approx((0.15, 0.2, 0.1, 0.2), abs=0.01)
    page.paste(textured(300), (0, 100))
    assert seen(page).borders[0::2] == (0, 0)  # a single bar may be plain ground


def test_a_figure_before_a_plain_ground_has_no_bars():
    page = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(page).rectangle((100, 60, 199, 299), fill="navy")  # a figure of blocks
    ImageDraw.Draw(page).rectangle((60, 150, 239, 299), fill="red")
    assert seen(page).borders == (0, 0, 0, 0)
    assert seen(art("character", "zorbi_03")).borders == (0, 0, 0, 0)
    assert seen(Image.new("RGB", (100, 100), "white")).borders == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [(16, 16), (16, 320), (63, 900), (5000, 260)])
def test_odd_sizes_are_measured(size):
    found = seen(art(size=size))
    assert 0 <= found.brightness <= 1 and len(found.signature) == 192 and np.isfinite(found.sharpness)
