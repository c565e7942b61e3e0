"""What the caption editor's scripts are answered: through the page's own door, over a real project."""

import json
import threading

import pytest

from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, gathering, looking
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import tagging
from tests.ui.conftest import asker

CAPTIONS = ("zorbi, smile, red hat", "zorbi, red hat, long hair", "zorbi, smile", "")


@pytest.fixture
def project(projects, picture_folder) -> Project:
    project = Project.create(projects, Plan(name="Door", trigger="zorbi"))
    gathering.gather(project, [picture_folder(4)])
    for image, text in zip(project.images(), CAPTIONS, strict=True):
        captioning.set_text(project, image.id, text)
    return project


@pytest.fixture
def ask(projects, project):
    return asker(tagging.functions(Studio(projects)), project, "tagging.")


def texts(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def test_a_caption_is_written_tidied_with_the_trigger_first_as_one_step(ask, project):
    answer = ask("caption", id=1, text="smile,  Smile, night ,zorbi", before=CAPTIONS[0])
    assert answer["text"] == project.image(1).caption == "zorbi, smile, night"
    assert answer["revision"] == project.revision and [row[0] for row in answer["rows"]] == [1]
    assert ask("caption", id=1, text="", before="zorbi, smile, night")["text"] == ""  # empty stays empty
    assert (project.undo(), project.undo()) == ("Edit a caption", "Edit a caption")
    assert texts(project) == list(CAPTIONS)


def test_sentences_are_never_split_and_stand_beside_the_tags(ask, project):
    text = "A red hat, seen from below, with a feather."
    assert ask("caption", id=1, text=f" {text}\n", before="", field="prose")["text"] == text
    assert project.image(1).prose == text and project.image(1).caption == CAPTIONS[0]


def test_who_comes_second_is_told_and_nothing_is_lost(ask, project):
    ask("caption", id=1, text="zorbi, night", before=CAPTIONS[0])
    assert ask("caption", id=1, text="zorbi, forest", before=CAPTIONS[0]) == {"conflict": "zorbi, night"}
    assert project.image(1).caption == "zorbi, night"
    assert ask("caption", id=1, text="zorbi, forest", before="zorbi, night")["text"] == "zorbi, forest"


def test_of_many_writers_at_once_exactly_one_gets_through(project):
    outcomes: list[str] = []
    begin = threading.Barrier(8)

    def write(number: int) -> None:
        begin.wait()
        try:
            outcomes.append(captioning.set_text(project, 1, f"zorbi, number {number}", CAPTIONS[0]))
        except captioning.Conflict:
            outcomes.append("")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [text for text in outcomes if text] == [project.image(1).caption]


def test_tags_are_given_to_and_taken_from_chosen_pictures_in_one_step(ask, project):
    answer = ask("add", ids=[1, 3, 4], tags=["smile", "night"])
    assert answer["count"] == 3
    assert texts(project) == ["zorbi, smile, red hat, night", CAPTIONS[1], "zorbi, smile, night", "zorbi, smile, night"]
    assert ask("remove", ids=[1, 2, 3, 4], tags=["zorbi", "Night"])["count"] == 3
    assert texts(project) == ["zorbi, smile, red hat", CAPTIONS[1], "zorbi, smile", "zorbi, smile"]
    project.undo()
    project.undo()
    assert texts(project) == list(CAPTIONS)


def test_the_filter_knows_tags_and_only_used_pictures(ask, project):
    assert ask("find", text='smile and not "red hat"')["ids"] == [3]
    assert ask("find", text="untagged")["ids"] == [4]
    assert ask("find", text="", sort="tags", down=True)["ids"][0] in (1, 2)
    with project.edit("Reject") as edit:
        edit.set(3, decision="reject")
    assert ask("find", text="smile")["ids"] == [1]
    assert "no word" in ask("find", text="smyle")["message"]
    assert ask("find", text="flagged")["ids"] is not None


def test_the_length_is_that_of_the_trained_text_and_the_cut_is_exact(ask, project):
    short = ask("tokens", caption="smile", prose="")
    assert short["text"] == "zorbi, smile"
    (encoder,) = short["encoders"]
    assert encoder["name"] == "CLIP-L" and encoder["kept"] == len("zorbi, smile") and encoder["limit"] == 225
    long = ask("tokens", caption=", ".join(f"\U0001f600 tag {number}" for number in range(200)), prose="")
    (encoder,) = long["encoders"]
    assert encoder["count"] > 225
    kept = long["text"].encode("utf-16-le")[: 2 * encoder["kept"]].decode("utf-16-le")  # as JavaScript counts
    assert long["text"].startswith(kept) and ask("tokens", caption=kept, prose="")["encoders"][0]["count"] == 225


def test_quick_tags_and_the_form_of_captions_are_kept_with_the_project(ask, project):
    assert ask("quick", tags=["smile", "", " red,  hat ", ""]) == ["smile", "", "red hat"]
    ask("captions", captions="both")
    info = ask("info")
    assert info["quick"] == ["smile", "", "red hat"] and info["captions"] == "both" and info["trigger"] == "zorbi"
    assert project.plan.quick_tags == ("smile", "", "red hat")
    assert "remedy" in ask("captions", captions="verse")


def test_suggestions_are_what_the_tagger_saw_and_the_caption_lacks(ask, project):
    key = looking.names(project.plan)["scores"]
    found = {"smile": 0.99, "night": 0.9, "forest": 0.8}
    Looks(project.folder).put(key, {project.image(1).sha256: json.dumps(found).encode()})
    assert [(tag, chance) for tag, chance, _ in ask("suggestions", id=1)] == [("night", 0.9), ("forest", 0.8)]
    assert ask("suggestions", id=2) == []
    assert "no picture" in ask("suggestions", id=999)["message"]
