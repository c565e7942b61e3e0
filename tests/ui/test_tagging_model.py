"""What the tagger's panel is answered: through the page's own door, over a real project."""

import contextlib
import threading

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering
from lora_studio.ui import guards
from lora_studio.ui.api import dispatcher
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import tagging_model
from tests.tagged import tagged


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
    """Call a function as the page does; its value, or the error as the page gets it."""
    call = dispatcher(tagging_model.functions(studio))

    def asked(name, /, **arguments):
        answer = call({"name": name, "arguments": {"project": project.slug, **arguments}})
        return answer["value"] if "value" in answer else answer["error"]

    return asked


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
