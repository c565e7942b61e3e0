"""What the shape editor's scripts are answered: crops, masks and what is trained, through the page's own door."""

import base64
import io

import pytest
from PIL import Image as Pil

from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering, training
from tests.conftest import draw_picture

LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]


@pytest.fixture
def project(projects, tmp_path) -> Project:
    project = Project.create(projects, Plan(name="Shapes", trigger="zorbi", defining=("scar on the left cheek",)))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(160, 80), (96, 96), (96, 96)]):
        (folder / f"{number}.png").write_bytes(draw_picture(number, size))
    gathering.gather(project, [folder])
    return project


def png(picture: Pil.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_several_crops_are_one_undo_entry_and_are_previewed_before_they_are_saved(ask, project):
    unsaved = ask("preview", id=1, boxes=[LEFT, RIGHT])
    assert [part["size"] for part in unsaved if part["resolution"] == unsaved[0]["resolution"]] == [[80, 80], [80, 80]]
    assert project.image(1).crops == (None,)
    assert [row[0] for row in ask("crops", id=1, boxes=[LEFT, RIGHT])["rows"]] == [1]
    assert project.image(1).crops == (tuple(LEFT), tuple(RIGHT))
    assert ask("preview", id=1) == unsaved
    project.undo()
    assert project.image(1).crops == (None,)


@pytest.mark.parametrize("boxes", [[], [[0.0, 0.0, 1.2, 1.0]], [[0.5, 0.0, 0.5, 1.0]], [[0.0, 0.0, 0.1]]])
def test_crops_that_cannot_be_are_refused_in_words(ask, project, boxes):
    assert ask("crops", id=1, boxes=boxes)["message"]
    assert project.image(1).crops == (None,)


def test_a_mask_is_saved_taken_off_and_undone(ask, project):
    half = Pil.new("L", (160, 80))
    half.paste(255, (0, 0, 80, 80))
    ask("mask", id=1, png=png(half))
    with Pil.open(project.mask_path(project.image(1))) as saved:
        assert (saved.mode, saved.size, saved.tobytes()) == ("L", (160, 80), half.tobytes())
    ask("mask", id=1, png=None)
    assert not project.image(1).mask
    project.undo()
    assert project.image(1).mask
    for wrong in ("!", base64.b64encode(b"no picture").decode(), png(Pil.new("L", (50, 80), 255))):
        assert ask("mask", id=2, png=wrong)["message"]
    assert not project.image(2).mask


def test_a_mask_of_several_megabytes_comes_through_the_door(ask, project):
    noise = Pil.effect_noise((1600, 800), 200)
    sent = png(noise)
    assert len(sent) > 1_000_000
    assert "rows" in ask("mask", id=1, png=sent)


def test_the_settings_that_count_for_a_shape_are_told_and_can_be_changed(ask, project):
    config = training.current(project).with_changes({"objective.mask_outside": 1.0, "data.flip": True})
    training.save_current(project, config.with_changes({"data.batch_size": 2, "data.repeats": 1}))
    told = ask("shaping")
    assert (told["mask_outside"], told["flip"], told["batch"]) == (1.0, True, 2)
    assert any("scar on the left cheek" in text for text in told["one_sided"])
    small = [bucket for bucket in told["buckets"] if bucket["samples"] < told["batch"]]
    assert [bucket["ids"] for bucket in small] == [[1]]
    assert ask("change", setting="objective.mask_outside", value=0)["mask_outside"] == 0
    assert ask("change", setting="data.flip", value=0)["flip"] is False
    assert training.current(project).data.flip is False and training.current(project).objective.mask_outside == 0
    assert ask("change", setting="adapter.rank", value=4)["message"]


def test_the_outline_of_the_subject_comes_as_a_picture_and_changes_nothing(ask, project):
    found = ask("find_subject", id=2, box=[0.1, 0.1, 0.9, 0.9])
    if isinstance(found, dict):  # nothing stands out in a drawn picture: then that is said
        assert "subject" in found["message"]
    else:
        with Pil.open(io.BytesIO(base64.b64decode(found))) as mask:
            assert (mask.mode, mask.size) == ("L", (96, 96))
    assert not project.image(2).mask
