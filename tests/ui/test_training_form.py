"""What the Training form's events answer: marks, presets, one setting taken back."""

import json

import pytest

from lora_studio.core import presets
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.schedules import learning_rate
from lora_studio.steps import gathering
from lora_studio.steps import training as steps
from lora_studio.ui import form
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import training

SCHEDULES = next(info for info in form.infos(TrainConfig, ("schedule.kind",))).choices


@pytest.fixture
def project(projects, picture_folder) -> Project:
    project = Project.create(projects, Plan(name="Zorbi", trigger="zorbi"))
    gathering.gather(project, [picture_folder(4)])
    return project


@pytest.fixture
def handlers(projects, project) -> training._Handlers:
    return training._Handlers(Studio(projects), training._drawn())


def given(handlers, project, **changes) -> list:
    """What stands in the fields: the recommendation with changes, `adapter__rank=16`."""
    values = form.values(steps.recommended(project), handlers.drawn)
    named = dict(zip([info.name for info in handlers.drawn], values, strict=True))
    named |= {name.replace("__", "."): value for name, value in changes.items()}
    return list(named.values())


def event(**data) -> gr.EventData:
    return gr.EventData(None, data)


def test_what_differs_from_the_recommendation_is_marked_with_the_way_back(handlers, project):
    plan, facts, chosen, *_ = handlers.edit(project.slug, *given(handlers, project, adapter__rank=16))
    fields = json.loads(facts)["fields"]
    assert {name for name, fact in fields.items() if "back" in fact} == {"adapter.rank"}
    assert fields["adapter.rank"]["back"] == str(steps.recommended(project).adapter.rank)
    assert chosen == training.OWN and "steps" in plan
    assert steps.current(project).adapter.rank == 16


def test_one_setting_is_taken_back_and_the_others_stay(handlers, project):
    values = given(handlers, project, adapter__rank=16, run__epochs=3)
    handlers.edit(project.slug, *values)
    _, facts, chosen, *_ = handlers.restore(event(name="adapter.rank"), project.slug, *values)
    assert {name for name, fact in json.loads(facts)["fields"].items() if "back" in fact} == {"run.epochs"}
    assert steps.current(project).adapter.rank == steps.recommended(project).adapter.rank
    assert steps.current(project).run.epochs == 3 and chosen == training.OWN


def test_the_last_one_taken_back_is_the_recommendation(handlers, project):
    values = given(handlers, project, adapter__rank=16)
    handlers.edit(project.slug, *values)
    assert handlers.restore(event(name="adapter.rank"), project.slug, *values)[2] == training.RECOMMENDED


def test_wrong_values_are_told_at_once_and_marked(handlers, project):
    values = given(handlers, project, adapter__rank=0, optimizer__unet_lr="fast")
    plan, facts, *_ = handlers.edit(project.slug, *values)
    assert 'data-setting="adapter.rank"' in plan and 'data-setting="optimizer.unet_lr"' in plan
    bad = {name for name, fact in json.loads(facts)["fields"].items() if fact.get("bad")}
    assert bad == {"adapter.rank", "optimizer.unet_lr"}
    assert steps.current(project) == steps.recommended(project)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_curve_is_the_trainers_own(kind, project):
    config = TrainConfig().with_changes({"schedule.kind": kind})
    drawn = training._curve(config, 140)
    last = float(drawn.partition('points="')[2].partition('"')[0].split(" ")[70].split(",")[1])
    assert last == pytest.approx(37 - 33 * learning_rate(71, 140, config.schedule), abs=0.06)
    assert form.label(kind) in drawn


@pytest.mark.parametrize("name", [preset.name for preset in presets.all_presets()])
def test_each_preset_is_taken_with_one_click_and_says_what_it_changed(name, handlers, project):
    *_, said = handlers.take_preset(project.slug, name)
    told = json.loads(said)
    preset = presets.load(name)
    assert told["level"] == ("good" if preset.family in ("", "starter") else "warn"), told
    assert preset.description in told["remedy"]
    for section, values in preset.settings.items():
        kept = steps.current(project).to_dict()[section]
        assert {key: kept[key] for key in values} == values
    shown = form.values(steps.current(project), handlers.drawn)
    differing = handlers._differing(shown, form.values(steps.recommended(project), handlers.drawn))
    first = handlers.drawn[differing[0]]
    assert f"{form.title(first)} " in told["remedy"].partition("Changed: ")[2] and " → " in told["remedy"]


def test_a_preset_that_is_in_use_is_named_when_the_tab_opens_again(handlers, project):
    handlers.take_preset(project.slug, "prodigy")
    _, choice, *_ = handlers.navigate(event(project=project.slug, step="training"))
    assert choice["value"] == "prodigy"


def test_the_fields_come_together_with_the_project_they_belong_to(handlers, project):
    assert handlers.navigate(event(project=project.slug, step="training"))[0] == project.slug


def test_presets_of_another_base_come_last_and_are_marked(handlers, project):
    _, choice, *_ = handlers.navigate(event(project=project.slug, step="training"))
    titles = [title for title, _ in choice["choices"]]
    others = [title.endswith("other base") for title in titles]
    assert others == sorted(others) and 0 < sum(others) < len(others)
    families = {preset.title: preset.family for preset in presets.all_presets()}
    assert all(families[title.partition(" · ")[0]] in ("sd1", "sdxl") for title in titles if " · " in title)
    assert titles[2] == "Character, starter model"  # that of the plan's kind, behind the two fixed ones


@pytest.mark.parametrize(
    ("changes", "main", "conv"),
    [
        ({}, "4 of 8 = 0.5", "4 of 8 = 0.5"),
        ({"conv_rank": 16, "conv_alpha": 4.0}, "4 of 8 = 0.5", "4 of 16 = 0.25"),
        ({"conv_rank": 16}, "4 of 8 = 0.5", "8 of 16 = 0.5"),
        ({"rs_lora": True, "rank": 16}, "4 of √16 = 1", "4 of √16 = 1"),
    ],
)
def test_alpha_is_shown_beside_its_rank(changes, main, conv):
    config = TrainConfig().with_changes({f"adapter.{name}": value for name, value in changes.items()})
    assert steps.strengths(config.adapter) == {"adapter.alpha": main, "adapter.conv_alpha": conv}


def test_kinds_without_alpha_by_rank_show_none():
    assert steps.strengths(TrainConfig().with_changes({"adapter.kind": "ia3"}).adapter) == {}
