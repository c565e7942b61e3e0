"""What the curation tab's script is answered: through the page's own door, over a real project."""

import pytest

from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering
from lora_studio.ui.api import dispatcher
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import curation
from tests.conftest import draw_picture


@pytest.fixture
def project(projects, picture_folder) -> Project:
    project = Project.create(projects, Plan(name="Door", trigger="zorbi"))
    folder = picture_folder(6)
    (folder / "small.png").write_bytes(draw_picture(90, (40, 24)))
    gathering.gather(project, [folder])
    return project


def decisions(project: Project) -> list[str]:
    return [image.decision for image in project.images()]


@pytest.mark.parametrize("decision", ["keep", "maybe", "reject"])
def test_a_decision_answers_with_its_rows_and_is_one_undo_entry(ask, project, decision):
    answer = ask("decide", ids=[1, 3], decision=decision)
    assert answer["revision"] == project.revision and [row[0] for row in answer["rows"]] == [1, 3]
    assert decisions(project)[:3] == [decision, "new", decision]
    project.undo()
    assert set(decisions(project)) == {"new"}


def test_suggestions_are_accepted_as_they_were_shown_for_some_or_for_all(ask, project):
    offered = ask("audit")["proposals"]
    assert set(map(int, offered)) == {image.id for image in project.images()}
    ask("decide", ids=[2], decision="keep")
    assert ask("accept", ids=[1, 2])["accepted"] == 1
    assert ask("accept", ids=None)["accepted"] == len(offered) - 2
    wanted = {int(image_id): one["decision"] for image_id, one in offered.items()} | {2: "keep"}
    assert {image.id: image.decision for image in project.images()} == wanted
    project.undo()
    assert decisions(project).count("new") == len(offered) - 2


def test_one_of_several_is_kept_in_place_of_the_others_in_one_undo_entry(ask, project):
    ask("choose", best=2, others=[1, 4])
    assert decisions(project)[:4] == ["reject", "keep", "new", "reject"]
    assert "#2" in project.image(4).reason
    project.undo()
    assert set(decisions(project)) == {"new"}


def test_the_filter_finds_and_sorts_and_says_in_words_what_it_did_not_understand(ask, project):
    small = next(image.id for image in project.images() if image.name == "small.png")
    assert ask("find", text="width < 50")["ids"] == [small]
    assert ask("find", text="", sort="pixels")["ids"][0] == small
    assert ask("find", text="", sort="pixels", down=True)["ids"][-1] == small
    ask("decide", ids=[small], decision="keep")
    assert ask("find", text="width < 50 and not keep")["ids"] == []
    refused = ask("find", text="widht < 50")
    assert "widht" in refused["message"] and "width" in refused["message"] and refused["remedy"]


def test_every_word_that_the_filter_field_offers_is_understood(ask, projects):
    offered = dispatcher(curation.functions(Studio(projects)))({"name": "curation.fields", "arguments": {}})["value"]
    assert offered[0]["name"] == "flagged" and len(offered) == len({one["name"] for one in offered}) > 20
    for one in offered:
        text = {"<": one["example"] + "1", ":": one["example"] + "x"}.get(one["example"].strip()[-1], one["example"])
        assert "ids" in ask("find", text=text), text


def test_provenance_is_shown_for_many_and_set_on_all_of_them_at_once(ask, project):
    ask("set_provenance", ids=[1], values={"author": "Ada", "licence": "CC0"})
    found = ask("provenance", ids=[1, 2])
    assert found["author"] == {"value": "", "mixed": True} and not found["source"]["mixed"]
    assert ask("provenance", ids=[1])["author"] == {"value": "Ada", "mixed": False}
    ask("set_provenance", ids=[1, 2, 3], values={"licence": "CC BY 4.0"})
    assert ask("provenance", ids=[1, 2, 3])["licence"] == {"value": "CC BY 4.0", "mixed": False}
    project.undo()
    assert project.image(1).licence == "CC0" and project.image(2).licence == ""
    assert "author" in str(ask("set_provenance", ids=[1], values={"decision": "keep"}))


def test_compared_pictures_are_measured_side_by_side(ask, project):
    found = ask("measures", ids=[3, 1])
    sharpness = next(row for row in found["rows"] if row["name"] == "Sharpness")
    assert found["ids"] == [3, 1]
    assert sharpness["values"] == [project.image(3).sharpness, project.image(1).sharpness]
