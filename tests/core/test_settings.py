from typing import Literal

import pytest
from pydantic import Field

from lora_studio.core.settings import Settings, SettingsError, describe


class Adapter(Settings):
    rank: int = Field(8, ge=1, le=512)
    """Size of the adapter."""
    alpha: float = Field(4.0, gt=0)
    kind: Literal["lora", "dora"] = "lora"


class Config(Settings):
    adapter: Adapter = Adapter()
    betas: tuple[float, ...] = (0.9, 0.99)
    shuffle: bool = True


def test_a_misspelt_name_is_named_with_its_neighbours():
    with pytest.raises(SettingsError) as caught:
        Config.load({"adapter": {"rnak": 4}})
    assert caught.value.problems == ["adapter.rnak: no such setting; did you mean rank? known here: rank, alpha, kind"]


def test_all_problems_are_told_at_once():
    with pytest.raises(SettingsError) as caught:
        Config().with_changes({"adapter.rank": "0", "adapter.kind": "lara", "adpter.rank": "1", "shuffle": "perhaps"})
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    for name in ("adapter.rank", "adapter.kind", "adpter", "shuffle"):
        assert name in text


def test_texts_from_the_command_line_become_values_of_the_field():
    config = Config().with_changes({"adapter.rank": "16", "shuffle": "false", "betas": "0.8, 0.95"})
    assert (config.adapter.rank, config.shuffle, config.betas) == (16, False, (0.8, 0.95))


def test_a_setting_through_a_value_is_refused():
    with pytest.raises(SettingsError, match=r"adapter\.rank"):
        Config().with_changes({"adapter.rank.more": 1})


def test_settings_survive_their_own_data():
    config = Config().with_changes({"adapter.alpha": 2.5, "betas": [0.5]})
    assert Config.load(config.to_dict()) == config


def test_describe_reads_bounds_choices_and_sentences_off_the_declaration():
    infos = {info.name: info for info in describe(Config)}
    rank = infos["adapter.rank"]
    assert (rank.type, rank.default, rank.minimum, rank.maximum, rank.doc) == ("int", 8, 1, 512, "Size of the adapter.")
    assert infos["adapter.kind"].choices == ("lora", "dora")
    assert infos["betas"].type == "list"
