"""The form is read off the settings and gives them back."""

import pytest

from lora_studio.core.settings import SettingsError, describe
from lora_studio.engine.config import TrainConfig
from lora_studio.steps.testing import TestConfig
from lora_studio.ui import form
from lora_studio.ui.tabs import training

ALL = describe(TrainConfig)


def test_what_is_shown_reads_back_the_same():
    config = TrainConfig().with_changes({"sample.prompts": ["a, b", "c"], "optimizer.unet_lr": 1e-6, "data.flip": True})
    assert form.read(TrainConfig(), ALL, tuple(form.values(config, ALL))) == config


def test_every_setting_has_one_field_on_the_page():
    sections = {info.name for info in ALL if info.section in training.SECTIONS}
    names = set(training.SIMPLE) | sections - set(training.ELSEWHERE)
    hidden = {info.name for info in ALL} - names
    assert hidden == {"base.model"}  # chosen in Conception


def test_problems_come_all_at_once():
    given = dict(zip([info.name for info in ALL], form.values(TrainConfig(), ALL), strict=True))
    given |= {"adapter.rank": 0, "optimizer.unet_lr": "fast", "run.epochs": 0}
    with pytest.raises(SettingsError) as refused:
        form.read(TrainConfig(), ALL, tuple(given.values()))
    assert {problem.partition(":")[0] for problem in refused.value.problems} == {
        "adapter.rank",
        "optimizer.unet_lr",
        "run.epochs",
    }


def test_an_empty_number_is_named():
    given = dict(zip([info.name for info in ALL], form.values(TrainConfig(), ALL), strict=True))
    with pytest.raises(SettingsError, match=r"run\.epochs: is empty"):
        form.read(TrainConfig(), ALL, tuple({**given, "run.epochs": None}.values()))


def test_lists_of_numbers_are_read():
    drawn = form.infos(TestConfig, ("strengths", "seeds", "learn_prompts"))
    config = form.read(TestConfig(), drawn, ("0.5, 1", "3, 4", "zorbi, smile\nzorbi, frown"))
    assert config.strengths == (0.5, 1.0) and config.seeds == (3, 4)
    assert config.learn_prompts == ("zorbi, smile", "zorbi, frown")


@pytest.mark.parametrize(
    ("name", "title"),
    [("optimizer.unet_lr", "UNet learning rate"), ("schedule.kind", "Schedule"), ("run.epochs", "Epochs")],
)
def test_titles_are_readable(name, title):
    assert form.title(next(info for info in ALL if info.name == name)) == title


def test_a_field_is_shown_only_while_its_setting_counts():
    drawn = form.infos(TrainConfig, ("schedule.kind", "schedule.restarts", "schedule.power", "adapter.rank"))
    assert form.visible(drawn, ["cosine_with_restarts", 3, "2", 8]) == [True, True, False, True]
    assert form.visible(drawn, ["polynomial", 3, "2", 8]) == [True, False, True, True]


def test_what_a_setting_hangs_on_is_a_choice_with_these_values():
    known = {info.name: info for info in ALL}
    for info in ALL:
        if info.when:
            assert set(info.when[1]) <= set(known[info.when[0]].choices), info.name


def test_every_choice_has_a_name_of_its_own():
    for info in [*ALL, *describe(TestConfig)]:
        names = [form.label(choice) for choice in info.choices]
        assert len(set(names)) == len(names), f"{info.name}: {names}"
        assert not any("_" in name for name in names), f"{info.name}: {names}"


def test_names_that_the_form_knows_are_those_of_settings_and_choices():
    known = {info.name for info in ALL}
    assert set(form.TITLES) <= known
    choices = {choice for info in [*ALL, *describe(TestConfig)] for choice in info.choices}
    assert set(form.LABELS) <= choices


def test_titles_within_a_section_differ_and_fit_over_their_field():
    for section in training.SECTIONS:
        drawn = [info for info in ALL if info.section == section]
        titles = [form.title(info) for info in drawn]
        assert len(set(titles)) == len(titles)
        assert max(len(title) for title in titles) <= 25, titles


def test_a_setting_stands_right_behind_the_one_it_hangs_on():
    names = [info.name for info in training._drawn()]
    for info in training._drawn():
        if info.when:
            first, here = names.index(info.when[0]), names.index(info.name)
            between = form.infos(TrainConfig, tuple(names[first + 1 : here]))
            assert first < here and all(other.when and other.when[0] == info.when[0] for other in between), info.name
    assert sorted(names) == sorted(info.name for info in ALL if info.name != "base.model")


def test_a_setting_that_is_not_on_the_page_cannot_stand_in_the_way():
    values = {info.name: value for info, value in zip(ALL, form.values(TrainConfig(), ALL), strict=True)}
    given = {**values, "adapter.init": "pissa", "adapter.rs_lora": True, "adapter.kind": "ia3", "schedule.power": ""}
    config = form.read(TrainConfig(), ALL, tuple(given.values()))
    assert config.adapter.kind == "ia3" and config.adapter.init == "default" and not config.adapter.rs_lora
    shown = {**values, "adapter.init": "pissa", "adapter.rs_lora": True}
    assert form.read(TrainConfig(), ALL, tuple(shown.values())).adapter.init == "pissa"
