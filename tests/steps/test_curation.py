"""Decisions, proposals and crops: each one entry of the journal."""

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.judge.dataset import Audit
from lora_studio.judge.facts import Flag
from lora_studio.steps import crops, curation, looking
from tests.core.test_project import add

FOUND = Audit(
    [],
    {
        1: [Flag("near_duplicate", "nearly the same as another picture", 2), Flag("aspect", "very wide")],
        3: [Flag("lettering", "a twentieth of it is lettering")],
        5: [Flag("blurred", "blurred")],
    },
)


@pytest.fixture
def project(tmp_path) -> Project:
    """Six pictures of 64 x 48, the fifth of them kept."""
    project = Project.create(tmp_path, Plan(name="Zorbi", trigger="zorbi"))
    for number, colour in enumerate(("red", "green", "blue", "yellow", "pink", "brown")):
        add(project, colour, phash=number * 0x0F0F0F0F0F0F0F0F % 2**64, signature=bytes([number * 40] * 192))
    curation.keep(project, [5])
    return project


def decisions(project: Project) -> dict[int, tuple[str, str]]:
    return {image.id: (image.decision, image.reason) for image in project.images()}


def test_the_bad_is_proposed_for_rejection_the_doubtful_to_be_set_aside_and_the_rest_to_be_kept(project):
    offered = curation.proposals(project, found=FOUND)
    assert {image_id: one.decision for image_id, one in offered.items()} == {
        1: "reject", 2: "keep", 3: "maybe", 4: "keep", 6: "keep",
    }  # fmt: skip
    assert "nearly the same" in offered[1].reason and "lettering" in offered[3].reason and offered[2].reason
    curation.maybe(project, [4])
    assert 4 not in curation.proposals(project, found=FOUND), "it was decided already"


def test_proposals_are_accepted_one_by_one_or_all_at_once_and_undone_in_one_step(project):
    offered = curation.proposals(project, found=FOUND)
    assert [one["id"] for one in curation.accept(project, [3], offered)] == [3]
    assert decisions(project)[3] == ("maybe", "a twentieth of it is lettering")
    curation.reject(project, [2], "not him")
    done = curation.accept(project, None, offered)
    assert {one["id"]: one["decision"] for one in done} == {1: "reject", 4: "keep", 6: "keep"}
    assert done[0]["file"] == "red.png" and decisions(project)[2] == ("reject", "not him")
    assert project.undo() == "Accept 3 proposals"
    assert [decision for decision, _ in decisions(project).values()] == ["new", "reject", "maybe", "new", "keep", "new"]


def test_what_is_set_aside_is_not_trained_on_until_it_is_kept(project):
    curation.maybe(project, [1, 2])
    assert project.undo_label() == "Set aside 2 pictures"
    assert [image.id for image in project.used_images()] == [3, 4, 5, 6]
    curation.keep(project, [1])
    assert [image.id for image in project.used_images()] == [1, 3, 4, 5, 6]


def test_an_unknown_picture_or_decision_changes_nothing(project):
    before = decisions(project)
    for ids, decision in (([1, 99], "keep"), ([1], "perhaps")):
        with pytest.raises(UserError):
            curation.decide(project, ids, decision)
    assert decisions(project) == before


def test_several_crops_are_one_undo_entry_and_the_whole_is_no_crop(project):
    left, right = (0, 0, 0.5, 1), (0.5, 0, 1, 1)
    curation.set_crops(project, 1, [left, right, left])
    assert project.image(1).crops == (left, right) and project.undo_label() == "2 crops"
    curation.set_crops(project, 1, [right, (0, 0, 1, 0.9999)])
    assert project.image(1).crops == (None, right)
    curation.set_crop(project, 1, left)
    assert project.image(1).crops == (left, right), "further crops stay"
    curation.set_crops(project, 1, [])
    assert project.image(1).crops == (None,) and project.undo_label() == "Undo the crop"
    for _ in range(4):
        project.undo()
    assert project.image(1).crops == (None,) and project.undo_label() == "Keep 1 picture"


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.2), (float("nan"), 0, 1, 1)])
def test_a_crop_outside_the_picture_is_refused(project, box):
    with pytest.raises(UserError, match="outside"):
        curation.set_crops(project, 1, [(0, 0, 0.5, 1), box])
    assert project.image(1).crops == (None,)


@pytest.mark.parametrize("aspect", [(1, 1), (3, 4), (16, 9), (1, 3)])
def test_a_crop_to_an_aspect_is_the_largest_that_fits_around_what_was_cropped(project, aspect):
    curation.set_crop(project, 1, (0.6, 0, 1, 0.4))
    image = project.image(1)
    left, top, right, bottom = crops.to_aspect(image, aspect)
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    assert (right - left) * 64 / ((bottom - top) * 48) == pytest.approx(aspect[0] / aspect[1])
    assert right - left == pytest.approx(1) or bottom - top == pytest.approx(1)
    assert right == pytest.approx(min(1, 0.8 + (right - left) / 2)), "as near to the old crop as can be"


@pytest.mark.parametrize("words", ["0:1", "1:0", "1:nan", "9000:1", "nose", ""])
def test_what_is_no_shape_is_refused(words):
    with pytest.raises(UserError):
        crops.named(words)


def test_a_crop_to_the_face_holds_the_largest_face_with_hair_and_shoulders(project):
    with pytest.raises(UserError, match="looked"):
        crops.to_face(project, 1)
    Looks(project.folder).put(
        looking.FACES,
        {project.image(1).sha256: b"[[0.4, 0.3, 0.5, 0.45], [0, 0, 0.05, 0.05]]", project.image(2).sha256: b"[]"},
    )
    left, top, right, bottom = crops.to_face(project, 1)
    assert left < 0.4 and right > 0.5 and top < 0.3 and bottom - 0.45 > 0.3 - top
    assert (right - left) * 64 == pytest.approx((bottom - top) * 48), "a square"
    with pytest.raises(UserError, match="No face was found"):
        crops.to_face(project, 2)
