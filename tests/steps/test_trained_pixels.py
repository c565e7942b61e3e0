"""What the page shows as trained is what the trainer encodes, bit for bit; and masks are cut as their pictures are."""

import io
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.engine import data, picture
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.pixels import Look
from lora_studio.steps import crops, curation, gathering, masks, training

SMALL = {"data.resolution": 64, "data.bucket_step": 8, "data.bucket_min": 32, "data.bucket_max": 128}


def noise(seed: int, size: tuple[int, int], mode: str = "RGB") -> Pil.Image:
    """A picture in which no two places are alike."""
    shape = (size[1], size[0], len(mode))
    return Pil.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


@pytest.fixture
def project(tmp_path) -> Project:
    """A wide PNG, a photo on its side, a transparent PNG over a blue background, and one too small for its bucket."""
    pile = tmp_path / "pile"
    pile.mkdir()
    noise(1, (150, 90)).save(pile / "1 wide.png")
    turned = Pil.Exif()
    turned[0x0112] = 6
    noise(2, (120, 80)).save(pile / "2 turned.jpg", exif=turned, quality=90)
    noise(3, (100, 100), "RGBA").save(pile / "3 clear.png")
    noise(4, (40, 30)).save(pile / "4 small.png")
    project = Project.create(tmp_path / "projects", Plan(name="Zorbi", trigger="zorbi", background="#0000ff"))
    gathering.gather(project, sorted(pile.iterdir()))
    return project


def read_as_trained(project: Project, config: TrainConfig) -> dict[int, list[picture.Picture]]:
    """What the trainer reads of the project, by resolution."""
    folder = project.folder / "runs" / "zorbi-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(training.snapshot(project)))
    return data.at_sizes(data.read_dataset(folder / "dataset.json", config.data), config.data)


@pytest.mark.parametrize("no_upscale", [False, True])
def test_the_shown_pixels_are_those_that_are_encoded(project, no_upscale):
    config = TrainConfig().with_changes({**SMALL, "data.more_resolutions": [96], "data.no_upscale": no_upscale})
    curation.set_crops(project, 1, [(0.1, 0.05, 0.713, 0.9), (0.5, 0, 1, 1)])
    curation.set_crop(project, 2, (0, 0.333, 1, 0.777))
    seen = 0
    for resolution, read in read_as_trained(project, config).items():
        for one, flip in product(read, (False, True)):
            image_id, _, number = one.id.partition("-")
            shown = crops.trained_pixels(project, config, int(image_id), int(number or 1) - 1, resolution, flip)
            (encoded,) = picture.load_pixels(one, [Look(flip)])
            as_tensor = torch.from_numpy(np.asarray(shown, np.float32) / 127.5 - 1).permute(2, 0, 1)
            assert shown.size == one.bucket and torch.equal(as_tensor, encoded), (one.id, resolution, flip)
            seen += 1
    assert seen == 5 * 2 * 2


def test_the_preview_says_what_the_trainer_does(project):
    config = TrainConfig().with_changes({**SMALL, "data.more_resolutions": [96]})
    curation.set_crops(project, 1, [(0, 0, 0.5, 1), None])
    read = read_as_trained(project, config)
    found = {(one["resolution"], one["crop"]): one for one in curation.preview(project, config, 1)}
    for resolution in (64, 96):
        by_id = {one.id: one for one in read[resolution]}
        assert tuple(found[resolution, 0]["bucket"]) == by_id["1"].bucket
        assert tuple(found[resolution, 1]["bucket"]) == by_id["1-2"].bucket
    small = curation.preview(project, config, 4)[0]
    assert small["enlarged"] and small["scale"] > 1 and not found[64, 0]["enlarged"]


@pytest.mark.parametrize("crop", [None, (0.2, 0.1, 0.9, 1.0), (0.3, 0.0, 0.6, 0.9)])
def test_the_view_lies_where_the_pixels_come_from(tmp_path, crop):
    """Red grows from left to right and green from top to bottom: the corners of what is trained tell their place."""
    across, down = np.meshgrid(np.linspace(0, 255, 200), np.linspace(0, 255, 120))
    Pil.fromarray(np.dstack([across, down, 0 * down]).round().astype(np.uint8)).save(tmp_path / "a.png")
    project = Project.create(tmp_path / "projects", Plan(name="Zorbi"))
    gathering.gather(project, [tmp_path / "a.png"])
    curation.set_crop(project, 1, crop)
    config = TrainConfig().with_changes({**SMALL, "data.bucket_max": 64, "data.bucket_min": 64})  # a square: cuts a lot
    (found,) = curation.preview(project, config, 1)
    pixels = np.asarray(crops.trained_pixels(project, config, 1), float) / 255
    left, top, right, bottom = found["view"]
    assert pixels[32, 0, 0] == pytest.approx(left, abs=0.02) and pixels[32, -1, 0] == pytest.approx(right, abs=0.02)
    assert pixels[0, 32, 1] == pytest.approx(top, abs=0.02) and pixels[-1, 32, 1] == pytest.approx(bottom, abs=0.02)
    area = (crop[2] - crop[0]) * (crop[3] - crop[1]) if crop else 1
    assert (right - left) * (bottom - top) / area == pytest.approx(1 - found["cut"], abs=0.01) and found["cut"] > 0.05


def test_a_mask_is_cut_exactly_as_its_picture(tmp_path):
    """The mask is the picture's own red, so what is trained and what counts must stay equal, cell by cell."""
    grid = np.random.default_rng(5).integers(0, 2, (16, 24), np.uint8) * 255
    grey = Pil.fromarray(grid).resize((192, 128), Pil.Resampling.NEAREST)
    Pil.merge("RGB", [grey, grey, grey]).save(tmp_path / "a.png")
    project = Project.create(tmp_path / "projects", Plan(name="Zorbi", trigger="zorbi"))
    gathering.gather(project, [tmp_path / "a.png"])
    masks.save(project, 1, images.png(grey))
    curation.set_crops(project, 1, [(1 / 12, 1 / 8, 9 / 12, 1), (4 / 12, 0, 1, 1)])
    config = TrainConfig().with_changes({**SMALL, "data.no_upscale": True, "data.resolution": 128})
    read = read_as_trained(project, config)[128]
    assert [one.id for one in read] == ["1", "1-2"]
    for one, flip in product(read, (False, True)):
        (pixels,), (mask,) = (
            picture.load_pixels(one, [Look(flip)]),
            picture.load_masks(one, [Look(flip)], (one.bucket[1] // 8, one.bucket[0] // 8)),
        )
        cells = torch.nn.functional.avg_pool2d((pixels[:1] + 1) / 2, 8)
        assert 0 < mask.mean() < 1 and torch.allclose(cells, mask, atol=1e-5), (one.id, flip)


def test_crops_are_counted_everywhere_as_the_trainer_counts_them(project):
    config = TrainConfig().with_changes({**SMALL, "data.repeats": 2, "data.batch_size": 2, "run.validation_share": 0})
    with project.edit("x") as edit:
        edit.set(1, repeats=3)
    before = training.step_plan(project, config)
    curation.set_crops(project, 1, [(0, 0, 0.5, 1), (0.5, 0, 1, 1), None])
    planned = training.step_plan(project, config)
    assert (before.samples, planned.samples) == (2 * (3 + 3), 2 * (3 * 3 + 3))
    own = data.plan_for(read_as_trained(project, config)[64], config)
    assert own == planned
    found = curation.buckets(project, config)
    assert {(one["width"], one["height"]): one["samples"] for one in found} == planned.buckets


def test_a_shape_that_never_fills_a_batch_is_named_with_its_pictures(project):
    config = TrainConfig().with_changes({**SMALL, "data.repeats": 1, "data.batch_size": 2})
    curation.set_crop(project, 2, (0, 0, 1, 0.2))
    named = curation.small_buckets(project, config)
    planned = training.step_plan(project, config).buckets
    assert {(one["width"], one["height"]) for one in named} == {size for size, count in planned.items() if count < 2}
    assert any(one["ids"] == [2] for one in named)


def test_a_crop_or_size_that_is_not_trained_is_refused(project):
    config = TrainConfig().with_changes(SMALL)
    with pytest.raises(UserError, match="no crop 2"):
        crops.trained_pixels(project, config, 1, 1)
    with pytest.raises(UserError, match="512"):
        crops.trained_pixels(project, config, 1, 0, 512)


# --- masks ------------------------------------------------------------------------------------------------------------


def png(picture_: Pil.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture_.save(buffer, form)
    return buffer.getvalue()


def painted(size: tuple[int, int], mode: str = "L") -> Pil.Image:
    """White on its left half; with RGBA all is white, and the right half transparent."""
    canvas = Pil.new("L", size, 0)
    canvas.paste(255, (0, 0, size[0] // 2, size[1]))
    if mode == "RGBA":
        canvas, alpha = Pil.new("RGBA", size, "white"), canvas
        canvas.putalpha(alpha)
    return canvas


@pytest.mark.parametrize(
    "given", [painted((150, 90)), painted((75, 45)), painted((150, 90), "RGBA")], ids=["", "half", "RGBA"]
)
def test_a_brushed_mask_becomes_grey_and_of_the_pictures_size_and_can_be_undone(project, given):
    digest = masks.save(project, 1, png(given))
    with Pil.open(project.mask_path(project.image(1))) as saved:
        values = np.asarray(saved)
        assert saved.mode == "L" and saved.size == (150, 90)
    assert values[:, :70].min() == 255 and values[:, 80:].max() == 0
    assert project.image(1).mask == digest and project.undo() == "Mask" and project.image(1).mask == ""
    project.redo()
    assert masks.save(project, 1, None) == "" and project.image(1).mask == "" and project.undo() == "Take off the mask"


def test_a_mask_that_is_white_all_over_is_none(project):
    assert masks.save(project, 1, png(Pil.new("L", (150, 90), 255))) == ""


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"", "cannot be read"),
        (b"no picture", "cannot be read"),
        (png(painted((150, 90)))[:-30], "cannot be read"),
        (png(painted((90, 150))), "90 x 150"),
        (png(Pil.new("L", (150, 90))), "black"),
        (png(painted((150, 90)), "BMP"), "cannot be read"),
        (bytes(masks.MAX_BYTES + 1), "too large"),
    ],
    ids=["empty", "text", "cut off", "other shape", "black", "other format", "too large"],
)
def test_what_is_no_mask_is_refused_and_changes_nothing(project, given, why):
    with pytest.raises(UserError, match=why):
        masks.save(project, 1, given)
    assert project.image(1).mask == "" and project.undo_label() is None


def test_masks_that_would_not_count_are_told_before_the_start(project):
    config = TrainConfig().with_changes({**SMALL, "objective.mask_outside": 1})
    assert not [check for check in training.checks(project, config) if "mask" in check.text]
    masks.save(project, 1, png(painted((150, 90))))
    (told,) = [check for check in training.checks(project, config) if "mask" in check.text]
    assert told.level == "warn" and "objective.mask_outside" in told.text
    assert not [check for check in training.checks(project, TrainConfig()) if "mask" in check.text]


def test_the_starters_run_reads_masks_and_crops(project):
    """The files that a run is given exist, relative to its folder."""
    masks.save(project, 1, png(painted((150, 90))))
    folder = project.folder / "runs" / "zorbi-1"
    for entry in training.snapshot(project)["images"]:
        assert (folder.parent / "x" / entry["file"]).resolve().is_file()
        assert entry["mask"] is None or Path(folder.parent / "x" / entry["mask"]).resolve().is_file()
