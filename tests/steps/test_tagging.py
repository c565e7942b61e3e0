import json
import os

import pytest

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Jobs, run_inline
from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, curation, gathering, looking, tagging
from lora_studio.tagger.config import TagConfig
from tests.core.test_project import add
from tests.test_faults import kill, wait_for


def make(root, **plan) -> Project:
    plan = {"name": "Zorbi", "trigger": "zorbi", "prune_tags": ("green hair",), **plan}
    project = Project.create(root, Plan(**plan))
    for colour in ("red", "green", "blue", "yellow"):
        add(project, colour)
    return project


@pytest.fixture
def project(projects) -> Project:
    return make(projects)


def line(image_id: int, *tags: str, text: str = "", error: str = "", sure: float = 0.9) -> dict:
    return {"id": image_id, "tags": [[tag, sure, "general"] for tag in tags], "text": text, "error": error}


def results(project: Project, *lines: dict, end: str = "\n"):
    folder = project.new_folder("jobs", "tag")
    (folder / "results.jsonl").write_text("\n".join(json.dumps(one) for one in lines) + end, "utf-8")
    return folder


def texts(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def prose(project: Project) -> list[str]:
    return [image.prose for image in project.images()]


# --- ways to merge ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("empty", "", "zorbi, smile, hat"),
        ("empty", "zorbi", "zorbi, smile, hat"),
        ("empty", "scarf", "scarf"),
        ("append", "zorbi, Hat, scarf", "zorbi, Hat, scarf, smile"),
        ("append", "scarf", "zorbi, scarf, smile, hat"),
        ("replace", "zorbi, scarf", "zorbi, smile, hat"),
        ("union", "zorbi, scarf, hat", "zorbi, smile, hat, scarf"),
        ("union", "scarf, green hair", "zorbi, smile, hat, scarf"),
    ],
)
def test_the_ways_to_merge_tags(project, mode, before, after):
    captioning.set_text(project, 1, before)
    folder = results(project, line(1, "green hair", "smile", "hat"))
    assert tagging.merge_tags(before, ["smile", "hat"], mode, "zorbi", ["green hair"]) == after
    report = tagging.apply(project, folder, mode)
    assert texts(project)[0] == after
    assert (report["written"], report["skipped"]) == ((1, 0) if before != after else (0, 1))


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("empty", "", "A cat, on a mat."),
        ("empty", "Mine, all mine.", "Mine, all mine."),
        ("append", "Mine, all mine.", "Mine, all mine. A cat, on a mat."),
        ("append", "Look: a cat, on a mat. Yes.", "Look: a cat, on a mat. Yes."),
        ("replace", "Mine, all mine.", "A cat, on a mat."),
        ("union", "Mine, all mine.", "A cat, on a mat. Mine, all mine."),
    ],
)
def test_the_ways_to_merge_sentences_never_cut_them(project, mode, before, after):
    captioning.set_text(project, 1, before, field="prose")
    captioning.set_text(project, 1, "zorbi, hat")
    tagging.apply(project, results(project, line(1, text="A cat,\n on a  mat.")), mode)
    assert prose(project)[0] == after and texts(project)[0] == "zorbi, hat"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "zorbi, A cat."),
        ("zorbi", "zorbi, A cat."),
        ("Zorbi sits.", "zorbi, sits. A cat."),
        ("A dog.", "zorbi, A dog. A cat."),
    ],
)
def test_the_trigger_leads_sentences_where_nothing_else_is_read(projects, before, after):
    project = make(projects, captions="prose")
    captioning.set_text(project, 1, before, field="prose")
    tagging.apply(project, results(project, line(1, text="A cat.")), "append")
    assert prose(project)[0] == after
    again = project.revision
    tagging.apply(project, results(project, line(1, text="A cat.")), "append")
    assert prose(project)[0] == after and project.revision == again


def test_a_preview_says_what_will_be_written_and_writes_nothing(project):
    captioning.set_text(project, 2, "zorbi, hat")
    revision, folder = project.revision, results(project, line(1, "smile"), line(2, "hat"), line(3, "hat", text="A."))
    diff = tagging.preview(project, folder, "append")
    assert [(one.id, one.field, one.before, one.after) for one in diff.changes] == [
        (1, "caption", "", "zorbi, smile"),
        (3, "caption", "", "zorbi, hat"),
        (3, "prose", "", "A."),
    ]
    assert project.revision == revision and diff.page()["count"] == 2
    assert tagging.apply(project, folder, "append", diff.digest) == {"written": 2, "skipped": 1, "failed": []}


def test_all_of_it_is_one_undo(project):
    captioning.set_text(project, 1, "hat")
    before = texts(project), prose(project)
    tagging.apply(project, results(project, *(line(number, "smile", text="A.") for number in (1, 2, 3, 4))), "union")
    assert project.undo() == "Auto-tagging" and (texts(project), prose(project)) == before
    assert project.redo() == "Auto-tagging" and texts(project)[0] == "zorbi, smile, hat"


def test_what_was_not_previewed_is_not_written(project):
    folder = results(project, line(1, "smile"))
    seen = tagging.preview(project, folder, "append").digest
    captioning.set_text(project, 1, "mine")
    with pytest.raises(UserError, match="changed since the preview"):
        tagging.apply(project, folder, "append", seen)
    assert texts(project)[0] == "mine" and not (folder / "applied.json").exists()


def test_tags_of_any_letters_come_through(project):
    odd = ["hat (red)", "<b>bold</b>", "😀", "كلب", "a,b"]
    tagging.apply(project, results(project, line(1, *odd)), "replace")
    assert captions.split(texts(project)[0]) == ["zorbi", "hat (red)", "<b>bold</b>", "😀", "كلب", "a b"]


def test_failed_pictures_are_named_and_nothing_written_at_all_is_a_failure(project):
    some = results(project, line(1, error="damaged"), line(2, "hat"), line(99, "hat"))
    assert tagging.apply(project, some) == {
        "written": 1, "skipped": 0, "failed": [{"file": "red.png", "reason": "damaged"}]
    }  # fmt: skip
    none = results(project, line(1, error="damaged"), line(3, error="gone"))
    with pytest.raises(UserError, match=r"Nothing was written.*red.png: damaged") as caught:
        tagging.apply(project, none)
    assert caught.value.remedy


def test_a_way_to_merge_that_is_none_is_refused(project):
    with pytest.raises(UserError, match="no way to merge"):
        tagging.preview(project, results(project, line(1, "hat")), "mix")


def test_a_half_written_last_line_is_left_out(project):
    folder = results(project, line(1, "hat"), end='\n{"id": 2, "tags": [["sca')
    assert list(tagging.results(folder)) == [1]
    with (folder / "results.jsonl").open("a") as file:
        file.write('rf", 0.5, "x"]], "error": ""}\n')
    assert list(tagging.results(folder)) == [1, 2]  # read anew as the file grows


# --- suggestions ------------------------------------------------------------------------------------------------------


def test_suggestions_are_what_the_taggers_see_and_the_caption_lacks_the_likeliest_first(project):
    captioning.set_text(project, 1, "zorbi, Hat")
    results(project, line(1, "hat", "green hair", "scarf", sure=0.6))
    results(project, line(2, "other"))  # a later tagging of another picture
    seen = {"smile": 0.7, "scarf": 0.3, "zorbi": 0.9, "frown": 0.06}
    key = looking.names(project.plan)["scores"]
    Looks(project.folder).put(key, {project.image(1).sha256: json.dumps(seen).encode()})
    assert tagging.suggestions(project, 1) == [("smile", 0.7, "expression"), ("scarf", 0.6, "general")]
    assert [tag for tag, _, _ in tagging.suggestions(project, 2)] == ["other"] and tagging.suggestions(project, 3) == []


def test_a_style_gets_no_words_for_its_style_suggested(projects):
    project = make(projects, kind="style")
    key = looking.names(project.plan)["scores"]
    Looks(project.folder).put(key, {project.image(1).sha256: b'{"ink style": 0.9, "smile": 0.8}'})
    assert [tag for tag, _, _ in tagging.suggestions(project, 1)] == ["smile"]


# --- the job ----------------------------------------------------------------------------------------------------------


def test_only_the_chosen_pictures_are_tagged_and_only_the_part_that_is_trained_on(project):
    curation.reject(project, [2])
    curation.set_crop(project, 3, (0.25, 0, 0.75, 1))
    jobs = [tagging.tag_job(project, TagConfig(), ids).to_dict()["images"] for ids in (None, [2, 3])]
    assert [[one["id"] for one in entries] for entries in jobs] == [[1, 3, 4], [2, 3]]
    assert jobs[1][1]["crop"] == [0.25, 0, 0.75, 1] and "crop" not in jobs[0][0]
    with pytest.raises(UserError, match="no pictures"):
        tagging.tag_job(project, TagConfig(), [])


@pytest.mark.parametrize("what", ["nowhere", "pickle", "half", "words"])
def test_a_tagger_that_cannot_be_used_is_refused_before_anything_is_written(project, tmp_path, what):
    folder = tmp_path / "model"
    if what in ("pickle", "half"):
        folder.mkdir()
        (folder / ("model.bin" if what == "pickle" else "config.json")).write_text("{}")
    config = TagConfig(vocabulary=str(folder)) if what == "words" else TagConfig(models=("starter", str(folder)))
    with pytest.raises(UserError) as caught:
        tagging.start(project, Jobs(project.root), config)
    assert str(folder) in caught.value.message and caught.value.remedy
    assert not (project.folder / "jobs").exists()


def test_the_page_is_told_how_it_goes(project):
    jobs = Jobs(project.root)
    assert tagging.state(project, jobs) | {"job": "", "state": "", "applied": None} == tagging.state(project, jobs)
    os.remove(project.original_path(project.image(2)))
    folder = project.new_folder("jobs", "tag")
    run_inline(folder, tagging.TARGET, tagging.tag_job(project, TagConfig(batch_size=1)).to_dict())
    told = tagging.state(project, jobs)
    assert (told["job"], told["state"], told["done"], told["total"], told["left"]) == (folder.name, "done", 4, 4, 1)
    assert told["failed"] == [{"file": "green.png", "reason": "cannot be read (No such file or directory)"}]
    assert told["rate"] > 0 and told["config"]["models"] == ["starter"] and told["applied"] is None
    tagging.apply(project, folder, "union")
    applied = tagging.state(project, jobs)["applied"]
    assert applied["mode"] == "union" and applied["written"] == 3 and len(applied["failed"]) == 1


def test_a_kill_in_the_middle_keeps_what_is_done_and_it_goes_on_from_there(projects, picture_folder):
    project, jobs = Project.create(projects, Plan(name="x", trigger="x")), Jobs(projects)
    gathering.gather(project, [picture_folder(8)])
    fifth = project.original_path(project.images()[4])
    data = fifth.read_bytes()
    fifth.unlink()
    os.mkfifo(fifth)  # nobody ever writes into it: the tagger waits here until it is killed
    config = TagConfig(batch_size=1, threshold=0.01)
    job = tagging.start(project, jobs, config)
    wait_for(lambda: len(tagging.results(job.folder)) == 4)
    with pytest.raises(UserError, match="already running"):
        tagging.start(project, jobs, config)
    kill(jobs.get(job.folder).pid)
    wait_for(lambda: jobs.get(job.folder).state == "interrupted")
    assert tagging.state(project, jobs)["left"] == 4
    assert tagging.apply(project, job.folder)["written"] == 4  # what is done can be used
    project.undo()
    first = (job.folder / "results.jsonl").read_text("utf-8")
    fifth.unlink()
    fifth.write_bytes(data)
    ended = jobs.wait(tagging.resume(project, jobs).folder, 120)
    assert ended.state == "done" and ended.folder == job.folder, ended.error
    assert (job.folder / "results.jsonl").read_text("utf-8").startswith(first)
    assert tagging.apply(project, job.folder)["written"] == 8
