"""What the tagger's panel is answered: through the page's own door, over a real project."""

import contextlib
import threading
from pathlib import Path

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering, trigger
from lora_studio.ui import guards
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import tagging_model
from tests.tagged import tagged
from tests.ui.conftest import asker


@pytest.fixture
def project(projects, picture_folder) -> Project:
    project = Project.create(projects, Plan(name="Tagged", trigger="zorbi"))
    gathering.gather(project, [picture_folder(4)])
    return project


@pytest.fixture
def studio(projects):
    return Studio(projects)


@pytest.fixture
def ask(studio, project):
    return asker(tagging_model.functions(studio), project, "")


@pytest.fixture
def owner():
    before = guards.owner.set(True)
    yield
    guards.owner.reset(before)


def captions(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def test_the_models_are_told_with_size_speed_licence_and_whether_they_are_here(ask):
    found = ask("tagger.cards")
    cards = {card["name"]: card for card in found["cards"]}
    assert cards["starter"]["present"] and cards["starter"]["bytes"] > 0
    assert all(card["title"] and card["speed"] and card["licence"] and card["answers"] for card in found["cards"])
    assert {card["kind"] for card in found["cards"]} >= {"starter", "wd", "zero_shot", "captioner"}
    assert {setting["name"] for setting in found["settings"]} >= {"models", "combine", "threshold", "max_tags"}
    assert "hair" in found["categories"]["starter"] and "rating" in found["categories"]["wd"]


def test_answers_wait_until_they_are_looked_at_and_a_changed_caption_asks_for_another_look(ask, studio, project):
    with project.edit("by hand") as edit:
        edit.set(1, caption="zorbi, my hat")
    tagged(project, studio.jobs, {1: ["smile"], 2: ["frown"], 3: "the file cannot be read"})
    job = ask("tagger.state")["job"]
    assert (job["tagged"], job["left"], job["num_failed"], job["applied"]) == (2, 2, 1, False)
    assert job["failed"][0]["reason"] == "the file cannot be read"
    page = ask("tagger.preview", mode="append")
    assert page["count"] == 2 and page["changes"][0]["after"] == "zorbi, my hat, smile"
    assert captions(project) == ["zorbi, my hat", "", "", ""]

    with project.edit("meanwhile") as edit:
        edit.set(2, caption="zorbi, meanwhile")
    assert "changed since the preview" in ask("tagger.apply", mode="append", digest=page["digest"])["message"]
    assert captions(project)[0] == "zorbi, my hat"

    report = ask("tagger.apply", mode="append", digest=ask("tagger.preview", mode="append")["digest"])
    assert (report["written"], report["num_failed"]) == (2, 1) and report["failed"][0]["file"].endswith(".png")
    assert captions(project)[:2] == ["zorbi, my hat, smile", "zorbi, meanwhile, frown"]
    assert ask("tagger.state")["job"]["applied"]
    project.undo()
    assert captions(project)[:2] == ["zorbi, my hat", "zorbi, meanwhile"]


def test_of_two_pages_only_one_takes_answers_over_unasked(ask, studio, project):
    tagged(project, studio.jobs, {one: ["smile"] for one in (1, 2, 3, 4)})
    answers = []
    pages = [threading.Thread(target=lambda: answers.append(ask("tagger.apply", mode="append"))) for _ in range(4)]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    assert sorted(answer["written"] for answer in answers) == [0, 0, 0, 4]
    assert sum("again" in answer for answer in answers) == 3, "the others have nothing to tell"
    assert captions(project) == ["zorbi, smile"] * 4


def test_answers_that_nobody_wants_are_left_and_wait_again_once_the_tagging_goes_on(ask, studio, project):
    folder = tagged(project, studio.jobs, {1: ["smile"]})
    ask("tagger.discard")
    assert ask("tagger.state")["job"]["applied"] and captions(project) == [""] * 4
    ask("tagger.resume")
    with contextlib.suppress(UserError):  # it may be done already
        studio.jobs.command(folder, "stop")
    studio.jobs.wait(folder, 90)
    assert not ask("tagger.state")["job"]["applied"]


def test_a_folder_is_named_only_on_the_machine_itself(ask, project, tmp_path, request):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "selected_tags.csv").write_text("tag_id,name,category,count\n1,hat,0,5\n")
    for name in (str(tmp_path / "half"), "~/models/wd", "./half"):
        assert "only on that machine" in ask("tagger.card", name=name)["message"], name
        assert "only on that machine" in ask("tagger.start", config={"models": [name]})["message"], name
    assert not list(project.folder.glob("jobs/tag-*"))
    request.getfixturevalue("owner")
    assert "model.safetensors" in ask("tagger.card", name=str(tmp_path / "half"))["message"]


def test_settings_that_cannot_be_are_named_before_anything_starts(ask, project):
    assert "threshold" in ask("tagger.start", config={"threshold": 2})["message"]
    assert "is given as text" in ask("tagger.start", config={"vocabulary": "/etc/passwd"})["message"]
    assert not list(project.folder.glob("jobs/tag-*"))


def test_folders_of_the_machine_are_the_owners_and_a_zip_is_everybodys(ask, project, tmp_path, request, studio):
    with project.edit("by hand") as edit:
        edit.set(1, caption="zorbi, smile")
    out = str(tmp_path / "out")
    for name, arguments in {
        "files.export": {"form": "txt", "folder": out},
        "files.preview": {"folder": out},
        "files.edits": {"folder": out},
        "files.unwatch": {"folder": out},
        "files.take": {"folder": out, "digest": "", "theirs": [], "ours": []},
        "files.import": {"folder": out, "digest": ""},
    }.items():
        assert "only on that machine" in ask(name, **arguments)["message"], name
    assert not (tmp_path / "out").exists()
    told = ask("files.export", form="metadata.jsonl")
    assert (told["written"], told["empty"]) == (1, 3) and (project.folder / "exports" / told["name"]).exists()

    request.getfixturevalue("owner")
    assert "full path" in ask("files.export", form="txt", folder="out")["message"]
    assert ask("files.export", form="txt", folder=out)["written"] == 1
    assert [one["folder"] for one in ask("files.watched")] == [out]
    guards.owner.set(False)
    assert ask("files.watched") == []


def test_a_file_of_somebody_else_is_left_until_it_is_said_to_replace_it(ask, project, tmp_path, owner):
    with project.edit("by hand") as edit:
        edit.set(1, caption="zorbi, smile")
    theirs = tmp_path / project.images()[0].name.replace(".png", ".txt")
    theirs.write_text("theirs")
    told = ask("files.export", form="txt", folder=str(tmp_path))
    assert told["kept"] == [theirs.name] and theirs.read_text() == "theirs"
    told = ask("files.export", form="txt", folder=str(tmp_path), overwrite=True)
    assert theirs.read_text() == "zorbi, smile"
    copies = [path.read_text() for path in Path(told["replaced"]).iterdir()]
    assert copies == ["theirs"]


def test_what_is_read_is_what_training_tokenizes_and_what_is_cut_is_told_apart(ask, project):
    text = ", ".join(f"tag number {number}" for number in range(90))
    with project.edit("by hand") as edit:
        edit.set(1, caption=f"zorbi, {text}")
    found = ask("seen.sample", ids=[1], count=1)
    (row,) = found["rows"]
    assert row["read"] + row["unread"] == row["text"] and row["unread"]
    assert found["trigger"] == "zorbi" and row["read"].startswith("zorbi")
    for encoder, count in row["counts"].items():
        assert len(row["ids"][encoder]) == count == row["limit"] + row["cut"]
    again = ask("seen.sample", ids=[1], count=1, seed=77)["rows"][0]
    assert again["text"] != row["text"] and sorted(again["text"].split(", ")) == sorted(row["text"].split(", "))


def test_a_trial_of_another_word_is_no_trial_of_the_trigger(ask, studio, project):
    folder = project.new_folder("jobs", "react")
    studio.jobs.prepare(folder, trigger.TARGET, {"react": {"word": "zorbi"}}, "react", project.slug)
    assert ask("seen.trigger")["trial"]["state"] == "stopped"
    project.save_plan(project.plan.with_changes({"trigger": "mikka"}))
    found = ask("seen.trigger")
    assert found["trial"] is None and found["check"]["word"] == "mikka" and found["check"]["split"]
