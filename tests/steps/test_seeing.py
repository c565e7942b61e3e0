"""The subject of a picture: as a mask to begin from, and as a crop."""

import io

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageDraw

from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.steps import crops, gathering, masks


@pytest.fixture
def project(tmp_path) -> Project:
    """1: a red disc before green. 2: the same, on its side by its EXIF. 3: clear but for a square. 4: plain."""
    pile = tmp_path / "pile"
    pile.mkdir()
    disc = Pil.new("RGB", (200, 120), "darkgreen")
    ImageDraw.Draw(disc).ellipse((110, 20, 190, 100), "red")
    disc.save(pile / "1.png")
    turned = Pil.Exif()
    turned[0x0112] = 6
    disc.save(pile / "2.jpg", exif=turned, quality=95)
    clear = Pil.new("RGBA", (100, 100), (0, 0, 0, 0))
    clear.paste((255, 255, 255, 255), (20, 30, 60, 90))
    clear.save(pile / "3.png")
    Pil.new("RGB", (64, 64), "gray").save(pile / "4.png")
    project = Project.create(tmp_path / "projects", Plan(name="Zorbi"))
    gathering.gather(project, sorted(pile.iterdir()))
    return project


def overlap(png: bytes, expected: np.ndarray) -> float:
    """Intersection over union."""
    with Pil.open(io.BytesIO(png)) as opened:
        found = np.asarray(opened) > 127
    assert found.shape == expected.shape
    return (found & expected).sum() / (found | expected).sum()


def test_the_outline_is_found_and_can_be_saved_as_a_mask(project):
    y, x = np.mgrid[:120, :200]
    disc = (x - 150) ** 2 + (y - 60) ** 2 < 40**2
    found = masks.automatic(project, 1)
    assert overlap(found, disc) > 0.9
    assert masks.save(project, 1, found) and project.undo() == "Mask"
    assert overlap(masks.automatic(project, 2), np.rot90(disc, -1)) > 0.9, "as it is meant to be seen"
    square = np.zeros((100, 100), bool)
    square[30:90, 20:60] = True
    assert overlap(masks.automatic(project, 3), square) > 0.98, "its transparency tells"


def test_a_crop_to_the_subject_holds_it_with_a_little_air(project):
    left, top, right, bottom = crops.to_subject(project, 1)
    assert 0.4 < left < 0.55 and right == pytest.approx(0.97, abs=0.04)
    assert 0.05 < top < 0.17 and 0.83 < bottom < 0.95


def test_a_box_says_where_to_look(project):
    box = (0.5, 0.1, 1, 0.9)
    with Pil.open(io.BytesIO(masks.automatic(project, 1, box))) as mask:
        left, _, right, _ = mask.getbbox()
    assert left >= 99 and right <= 200


def test_where_nothing_stands_out_that_is_said(project):
    with pytest.raises(UserError, match="No subject stands out in 4"):
        masks.automatic(project, 4)
    with pytest.raises(UserError, match="No subject stands out in 4"):
        crops.to_subject(project, 4)


def test_a_picture_that_is_gone_is_said(project):
    project.original_path(project.image(1)).unlink()
    with pytest.raises(UserError, match="not found"):
        masks.automatic(project, 1)
