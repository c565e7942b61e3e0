"""What the views of the whole set are answered: through the page's own door, over a real project."""

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering, training
from tests.conftest import draw_picture
from tests.looked import look_at

GROUPS = (["red hair"], ["blue hair"])


@pytest.fixture
def project(projects, picture_folder) -> Project:
    project = Project.create(projects, Plan(name="Whole", trigger="zorbi"))
    folder = picture_folder(24)
    for seed in (3, 5):
        (folder / f"twin {seed}.jpg").write_bytes(draw_picture(seed, form="JPEG"))
    (folder / "wide.png").write_bytes(draw_picture(90, (160, 60)))
    gathering.gather(project, [folder])
    return project


def test_what_is_not_known_yet_is_counted_and_nothing_lies_on_the_map(ask, project):
    assert ask("map") == {"points": [], "clusters": [], "without": 27, "problem": ""}
    assert ask("whole")["known"] == {"embedding": 0, "scores": 0, "faces": 0, "lettering": 0}
    assert ask("copies")["compared"] is False
    look_at(project, GROUPS)
    assert set(ask("whole")["known"].values()) == {27} and ask("copies")["compared"] is True
    assert ask("map")["without"] == 0


def test_the_map_names_its_clusters_and_shows_rejected_pictures_too(ask, project):
    look_at(project, GROUPS)
    ask("decide", ids=[1, 2], decision="reject")
    found = ask("map")
    assert {name for _, name in found["clusters"]} == {"red hair", "blue hair"}
    clusters = {image_id: cluster for image_id, _, _, cluster, _ in found["points"]}
    assert len({clusters[image_id] for image_id in (1, 3, 5)}) == 1 and clusters[1] != clusters[2]
    assert [image_id for image_id, *_, apart in found["points"] if apart] == [27]


def test_a_new_caption_renames_a_cluster(ask, project):
    look_at(project, ([], []))
    assert {name for _, name in ask("map")["clusters"]} == {"group 1", "group 2"}
    with project.edit("Captions") as edit:
        for image_id in range(1, 28, 2):
            edit.set(image_id, caption="zorbi, at night")
    assert "at night" in {name for _, name in ask("map")["clusters"]}


def test_all_groups_of_copies_are_settled_in_one_step(ask, project):
    look_at(project, GROUPS)
    groups = [(one["best"], [member["id"] for member in one["members"]]) for one in ask("audit")["groups"]]
    assert len(groups) == 2
    answer = ask("settle", groups=[{"best": best, "others": others} for best, others in groups])
    assert len(answer["rows"]) == 4
    for best, others in groups:
        assert project.image(best).decision == "keep" and f"#{best}" in project.image(others[0]).reason
        assert project.image(others[0]).decision == "reject"
    project.undo()
    assert {image.decision for image in project.images()} == {"new"}


def test_settling_with_a_picture_that_is_gone_changes_nothing(ask, project):
    answer = ask("settle", groups=[{"best": 1, "others": [2]}, {"best": 3, "others": [999]}])
    assert "999" in answer["message"]
    assert {image.decision for image in project.images()} == {"new"}


def test_training_sizes_that_never_fill_a_batch_name_their_pictures(ask, project):
    wide = next(image.id for image in project.images() if image.name == "wide.png")
    config = training.current(project).with_changes({"data.repeats": 1, "data.batch_size": 3})
    training.save_current(project, config)
    found = ask("whole")
    assert [bucket["ids"] for bucket in found["buckets"]] == [[wide]] and found["batch_size"] == 3
    ask("decide", ids=[wide], decision="reject")
    assert ask("whole")["buckets"] == []
