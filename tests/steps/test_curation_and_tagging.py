import json

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import TrainConfig
from lora_studio.steps import caption_edits, captioning, conception, curation, gathering, tagging
from lora_studio.steps.caption_edits import CaptionEdit
from tests.core.test_project import add


@pytest.fixture
def project(tmp_path) -> Project:
    plan = Plan(name="Zorbi", trigger="zorbi", prune_tags=("green hair",), varies=("smile",))
    project = Project.create(tmp_path, plan)
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        add(
            project,
            colour,
            phash=number * 0x0F0F0F0F0F0F0F0F % 2**64,
            signature=bytes([number * 60] * 192),
            sharpness=0.1,
        )
    return project


def results(project: Project, lines: list[dict]):
    folder = project.new_folder("jobs", "tag")
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def answer(image_id: int, *tags: str) -> dict:
    return {"id": image_id, "tags": [[tag, 0.9, "x"] for tag in tags], "error": None}


def captions(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def test_the_taggers_answers_come_in_with_the_trigger_first_and_the_pruned_tags_out(project):
    folder = results(project, [answer(1, "green hair", "smile"), {"id": 2, "tags": [], "error": "damaged"}])
    assert tagging.apply(project, folder) == {
        "written": 1,
        "skipped": 0,
        "failed": [{"file": "green.png", "reason": "damaged"}],
    }
    assert captions(project) == ["zorbi, smile", "", "", ""]
    assert project.undo() == "Auto-tagging" and captions(project) == ["", "", "", ""]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("empty", "zorbi, hat"), ("append", "zorbi, hat, smile"), ("replace", "zorbi, smile")],
)
def test_the_modes_of_merging(project, mode, expected):
    captioning.set_text(project, 1, "zorbi, hat")
    tagging.apply(project, results(project, [answer(1, "smile")]), mode)
    assert captions(project)[0] == expected


def test_no_results_is_a_failure(project):
    with pytest.raises(UserError, match="no results"):
        tagging.apply(project, project.new_folder("jobs", "tag"))


def test_a_pruned_tag_leaves_every_caption_and_comes_back_with_one_undo(project):
    for image in project.images():
        captioning.set_text(project, image.id, "zorbi, Green Hair, smile" if image.id < 4 else "zorbi, smile")
    curation.reject(project, [1])
    before = captions(project)
    assert caption_edits.apply(project, None, CaptionEdit(do="prune", tags=("green hair ",))) == [1, 2, 3]
    assert captions(project) == ["zorbi, smile"] * 4 and project.undo_label() == "Prune green hair"
    project.undo()
    assert captions(project) == before


def test_what_the_judge_offers_to_prune_no_longer_competes_once_it_is_pruned(project):
    for colour in ("navy", "olive", "teal", "maroon"):
        add(project, colour)
    for image in project.images():
        captioning.set_text(project, image.id, f"zorbi, green hair, thing {image.id}")

    def offered() -> list[str]:
        return [tag for finding in tagging.findings(project) for tag in finding.evidence.get("share", {})]

    assert offered() == ["green hair"]
    caption_edits.apply(project, None, CaptionEdit(do="prune", tags=(offered()[0],)))
    assert offered() == []


def test_counts_leave_out_the_rejected(project):
    for image in project.images():
        captioning.set_text(project, image.id, "smile" if image.id % 2 else "smile, hat")
    curation.reject(project, [2])
    assert tagging.counts(project) == [("smile", 3), ("hat", 1)]


def test_decisions_are_undone_in_one_step(project):
    curation.reject(project, [1, 2], "blurred")
    curation.keep(project, [3])
    assert [image.decision for image in project.images()] == ["reject", "reject", "keep", "new"]
    project.undo()
    project.undo()
    assert [image.decision for image in project.images()] == ["new"] * 4


def test_auto_rejects_the_double_and_spares_what_was_kept(project):
    first = project.image(1)
    twin = add(project, "pink", phash=first.phash, signature=first.signature, sharpness=0.05)
    rejected = curation.auto(project)
    assert [entry["id"] for entry in rejected] == [twin] and rejected[0]["reason"]
    project.undo()
    curation.keep(project, [twin])
    assert twin not in [entry["id"] for entry in curation.auto(project)]


def test_a_crop_decides_the_bucket(project):
    config = TrainConfig().with_changes(
        {"data.resolution": 64, "data.bucket_step": 8, "data.bucket_min": 32, "data.bucket_max": 128}
    )
    whole = curation.buckets(project, config)
    assert sum(bucket["count"] for bucket in whole) == 4 and whole[0]["width"] > whole[0]["height"]
    for image in project.images():
        curation.set_crop(project, image.id, (0.25, 0, 0.75, 1))
    cropped = curation.buckets(project, config)
    assert cropped[0]["width"] < cropped[0]["height"]
    curation.set_crop(project, 1, (0, 0, 1, 1))
    assert project.image(1).crop is None


@pytest.mark.parametrize("kind", ["style", "concept"])
def test_the_starters_tagger_leaves_the_samples_subject_to_its_trigger(tmp_path, kind):
    """It never saw these subjects and calls them by what it knows: such words would take the trigger's place."""
    project, jobs = conception.from_sample(tmp_path, kind), Jobs(tmp_path)
    gathering.gather(project, sorted(conception.sample(kind).pictures.glob("*_0[1-8].png")))
    job = jobs.wait(tagging.start(project, jobs, tagging.recommended(project)).folder, 120)
    tagging.apply(project, job.folder)
    found = {tag for image in project.images() for tag in image.caption.split(", ")}
    assert project.plan.trigger in found and any("hair" in tag for tag in found)
    assert (
        not found
        & {
            "style": {"voxel art", "pixel art", "comic style", "ink style"},
            "concept": {"sunglasses", "glasses"},
        }[kind]
    )
