"""The checks of a project's captions: what is told is there, what is offered mends it, and pruning is remembered."""

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.steps import caption_edits, captioning, checking, looking
from lora_studio.steps.caption_edits import CaptionEdit
from tests.core.test_project import add

CAPTIONS = {
    "red": "zorbi, green hair, smile, red shirt",
    "green": "zorbi, green hair, smlie, blue shirt",
    "blue": "zorbi, green hair, frown, grey_shirt",
    "yellow": "green hair, twin tails, shirt, white shirt",
    "orange": "zorbi, gray hair, open mouth, open mouth",
    "pink": "zorbi, green hair, long hair, short hair",
    "purple": "orange.png",
    "white": "",
}


def made(tmp_path, texts=CAPTIONS, prose=None, **plan) -> Project:
    project = Project.create(tmp_path, Plan(name="Zorbi", trigger="zorbi", **plan))
    ids = {colour: add(project, colour) for colour in texts}
    with project.edit("Captions") as edit:
        for colour, image in ids.items():
            edit.set(image, caption=texts[colour], prose=(prose or {}).get(colour, ""))
    return project


@pytest.fixture
def project(tmp_path) -> Project:
    return made(tmp_path)


def captions(project: Project) -> list[str]:
    return [image.caption for image in project.images()]


def kinds(project: Project) -> list[str]:
    return [problem.kind for problem in checking.lint(project)]


def test_every_offered_fix_is_an_edit_that_mends_its_problem(project):
    problems = checking.lint(project)
    fixes = {problem.kind: problem for problem in problems if problem.fix}
    assert {"typo", "underscores", "trigger_missing", "alias", "repeat", "redundant", "file_name"} <= fixes.keys()
    for kind, problem in fixes.items():
        done = caption_edits.apply(project, problem.ids, CaptionEdit.load(problem.fix))
        assert set(done) <= set(problem.ids) and done, kind
        left = [one for one in checking.lint(project) if one.kind == kind and one.text == problem.text]
        assert left == [], kind
        project.undo()


def test_all_problems_of_a_kind_are_mended_in_one_undo(tmp_path):
    project = made(tmp_path, {"red": "zorbi, smlie", "green": "zorbi, frwon, smlie", "blue": "zorbi, smlie, hat"})
    before = captions(project)
    diff = checking.fix(project, "typo")
    assert captions(project) == before
    assert captioning.write(project, diff) == [1, 2, 3]
    assert captions(project) == ["zorbi, smile", "zorbi, frown, smile", "zorbi, smile, hat"]
    assert project.undo() == "Mend typo" and captions(project) == before


def test_what_nothing_can_mend_says_what_to_do_and_an_unknown_kind_is_named(project):
    with pytest.raises(UserError, match="no edit that mends this"):
        checking.fix(project, "uncaptioned")
    with pytest.raises(UserError, match="typos is no kind"):
        checking.fix(project, "typos")
    assert checking.fix(project, "too_long").changes == ()


def test_rejected_pictures_are_not_judged(project):
    with project.edit("Reject") as edit:
        edit.set(2, decision="reject")
    assert "typo" not in kinds(project) and len(checking.table(project)) == 14


def test_the_tagger_tells_which_of_two_tags_is_wrong(project):
    image = project.images()[5]
    Looks(project.folder).put(looking.names(project.plan)["scores"], {image.sha256: b'{"short hair": 0.9}'})
    (problem,) = [one for one in checking.lint(project) if one.kind == "contradiction"]
    assert problem.fix == {"do": "remove", "tags": ["long hair"]} and problem.ids == (image.id,)


def test_captions_beyond_the_limit_of_the_base_are_counted_by_its_tokenizer(tmp_path):
    project = made(tmp_path, {"red": "zorbi, smile", "green": "zorbi, " + ", ".join(f"word{n}" for n in range(200))})
    (problem,) = [one for one in checking.lint(project) if one.kind == "too_long"]
    assert problem.ids == (2,) and problem.evidence["limit"] == 225


def test_sentences_are_not_taken_for_tags(tmp_path):
    prose = {"red": "A zorbi, smiling, smiling, in the the sun.", "green": "A child, long hair, short hair."}
    project = made(tmp_path, {"red": "", "green": ""}, prose, captions="prose")
    assert kinds(project) == ["trigger_missing", "repeat"]
    assert checking.absorbed(project).proposals == ()
    captioning.write(project, checking.fix(project, "repeat"))
    assert project.image(1).prose == "A zorbi, smiling, smiling, in the sun."
    assert project.image(2).prose == prose["green"]


def test_tags_and_sentences_are_both_judged_where_the_base_wants_both(tmp_path):
    project = made(tmp_path, {"red": "zorbi, smlie"}, {"red": "In the the sun."}, captions="both")
    assert sorted(kinds(project)) == ["repeat", "typo"]


def test_pruning_takes_tags_out_of_all_captions_and_is_remembered(project):
    with project.edit("Reject") as edit:
        edit.set(1, decision="reject")
    before = captions(project)
    shown = caption_edits.preview(project, None, CaptionEdit(do="prune", tags=("green hair", "Smile")))
    assert checking.prune(project, ["green hair", " Smile ", "green hair"], shown.digest) == [1, 2, 3, 4, 6]
    assert captions(project)[0] == "zorbi, red shirt"  # rejected, and may come back
    assert project.plan.prune_tags == ("green hair", "Smile")
    assert project.undo() == "Prune green hair, Smile" and captions(project) == before
    checking.prune(project, ["GREEN HAIR", "frown"])
    assert project.plan.prune_tags == ("green hair", "Smile", "frown")


def test_pruning_what_cannot_be_pruned_changes_nothing(project):
    before = captions(project)
    with pytest.raises(UserError, match="is the trigger"):
        checking.prune(project, ["smile", "Zorbi"])
    with pytest.raises(UserError, match="changed since"):
        checking.prune(project, ["smile"], digest="another")
    assert captions(project) == before and project.plan.prune_tags == ()


def test_what_is_absorbed_follows_the_plans_answers(tmp_path):
    texts = {colour: f"zorbi, green hair, red shirt, {colour} background" for colour in list(CAPTIONS)[:7]}
    project = made(tmp_path, texts, defining=("green hair",), varies=("clothes",))
    found = {one.tag: one.action for one in checking.absorbed(project).proposals}
    assert found == {"green hair": "prune", "red shirt": "keep"}
    assert [one.tags for one in checking.absorbed(project).fused] == [("zorbi", "red shirt")]


def test_charts_hold_what_the_page_draws(project):
    data = checking.charts(project)
    assert data["pictures"] == 8 and data["tags"][0] == ["green hair", 5, "hair colour"]
    names, counts = data["together"]["names"], data["together"]["counts"]
    assert counts[0][0] == 5 and counts[0][names.index("zorbi")] == 4
    clothes = next(one for one in data["categories"] if one["category"] == "clothes")
    assert clothes["pictures"] == 4 and clothes["tags"] == 5
    assert next(one for one in data["tags"] if one[0] == "zorbi")[2] == "trigger"


def test_a_project_without_pictures_is_no_error(tmp_path):
    project = Project.create(tmp_path, Plan(name="Empty"))
    assert checking.lint(project) == [] and checking.table(project) == []
    assert checking.charts(project)["tags"] == [] and checking.absorbed(project).fused == ()
