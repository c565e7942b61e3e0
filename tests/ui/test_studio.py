"""What the studio keeps in memory, and when it looks again."""

import json

import pytest

from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.steps import captioning, curation, looking
from lora_studio.ui.studio import Studio
from tests.core.test_project import add


@pytest.fixture
def project(tmp_path) -> Project:
    """Five pictures; the third is a copy of the second."""
    project = Project.create(tmp_path, Plan(name="Zorbi", trigger="zorbi"))
    for number, colour in enumerate(("red", "green", "blue", "yellow", "pink")):
        place = 1 if number == 2 else number
        add(project, colour, phash=place * 0x0F0F0F0F0F0F0F0F % 2**64, signature=bytes([place * 60] * 192))
    return project


@pytest.fixture
def studio(project) -> Studio:
    return Studio(project.root)


def test_a_keep_asks_for_no_new_audit_but_all_that_it_depends_on_does(studio, project):
    first = studio.audit(project)
    curation.keep(project, [1])
    assert studio.audit(project) is first
    changes = [
        lambda: curation.reject(project, [4]),
        lambda: curation.set_crop(project, 1, (0, 0, 0.5, 1)),
        lambda: captioning.set_text(project, 1, "zorbi, hat"),
        lambda: project.save_plan(project.plan.model_copy(update={"kind": "style"})),
        lambda: Looks(project.folder).put(looking.FACES, {project.image(1).sha256: b"[]"}),
        lambda: curation.keep(project, [3]),  # one of two copies
    ]
    for change in changes:
        before = studio.audit(project)
        change()
        assert studio.audit(project) is not before
        assert studio.audit(project) is studio.audit(project)


def test_what_a_filter_asks_follows_every_change(studio, project):
    def kept() -> list[str]:
        return [row.image.name for row in studio.rows(project) if row.image.decision == "keep"]

    assert kept() == []
    curation.keep(project, [1])
    assert kept() == ["red.png"]
    assert studio.rows(project)[0].facts.faces is None
    Looks(project.folder).put(looking.FACES, {project.image(1).sha256: json.dumps([[0, 0, 1, 1]]).encode()})
    assert studio.rows(project)[0].facts.faces == ((0, 0, 1, 1),)
    project.undo()
    assert kept() == []


def test_the_studio_proposes_what_the_step_proposes(studio, project):
    assert studio.proposals(project) == curation.proposals(project, studio.resolution(project))
    curation.accept(project, None, studio.proposals(project))
    assert studio.proposals(project) == {}


def test_the_step_bar_needs_no_new_audit_after_an_edit_but_sees_new_pictures(studio, project):
    assert studio.facts(project, []).undecided == 1
    first = studio.audit(project)
    captioning.set_text(project, 1, "zorbi, hat")
    curation.reject(project, [4])
    assert studio.facts(project, []).undecided == 1 and studio._memory[project.slug, "audit"][1] is first
    add(project, "brown", phash=0, signature=bytes(192))  # a copy of the first
    assert studio.facts(project, []).undecided == 2
    curation.keep(project, [3])
    assert studio.facts(project, []).undecided == 1
