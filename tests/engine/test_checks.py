"""Settings that contradict each other, or that base, pictures and machine cannot do: all told before the start."""

import re
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core import presets
from lora_studio.core.settings import SettingsError
from lora_studio.engine.config import AdapterConfig, TrainConfig, TrainJob
from lora_studio.engine.config.checks import Facts, idle_patterns, problems, text_layers, warnings
from lora_studio.engine.train import train
from tests.engine.conftest import Recorder, settings

SD1 = Facts(family="sd1", text_layers=(12,), device="cpu")
SDXL = Facts(family="sdxl", text_layers=(12, 32), device="cuda")
TAGGED = Facts(trigger="zorbi", captions=("zorbi, red, hat", "zorbi, blue"))

IMPOSSIBLE: list[tuple[dict[str, Any], Facts, str]] = [
    ({"optimizer.text_encoder_2_lr": 1e-4}, SD1, "optimizer.text_encoder_2_lr 0.0001: only SDXL .* set it to 0"),
    ({"run.clip_skip": 3}, Facts(family="sd-small", text_layers=(2,)), "run.clip_skip 3: .* at most 2"),
    ({"run.clip_skip": 4}, Facts(family="sdxl", text_layers=(4, 6)), "run.clip_skip 4: .* at most 3"),
    ({"adapter.init": "loftq"}, SD1, "adapter.init loftq .* run.quantize is none"),
    ({"optimizer.kind": "adamw8bit"}, SD1, "optimizer.kind adamw8bit needs an NVIDIA card"),
    ({"run.precision": "fp16"}, SD1, "run.precision fp16 needs a GPU"),
    ({"data.more_resolutions": [32], "data.bucket_step": 64}, SD1, "more_resolutions: 32 is smaller than"),
    ({"run.shard": True, "run.quantize": "fp8"}, SDXL, "run.shard and run.quantize fp8: .* choose one"),
    ({"run.shard": True, "run.offload_blocks": 8}, SDXL, "run.shard and run.offload_blocks 8: .* choose one"),
    ({"run.shard": True, "run.compile": True}, SDXL, "run.shard and run.compile True: .* choose one"),
    ({"sample.width": 16}, SD1, "sample.width 16: .* 32 pixels"),
    ({"sample.seed": 2**31 - 1}, SD1, "sample.seed 2147483647"),
    ({"objective.preservation": 1.0}, Facts(trigger=""), "objective.preservation: there is no trigger"),
]  # fmt: skip
POSSIBLE: list[tuple[dict[str, Any], Facts]] = [
    ({}, SD1),
    ({}, Facts()),
    ({"optimizer.text_encoder_2_lr": 1e-4, "run.clip_skip": 11, "optimizer.kind": "adamw8bit"}, SDXL),
    ({"run.precision": "fp16"}, SDXL),
    ({"objective.preservation": 1.0}, TAGGED),
    ({"objective.preservation": 1.0}, Facts(trigger="abc", captions=("red",))),  # the trigger leads it in training
    ({"objective.preservation": 1.0, "objective.preservation_prompts": ["a dog"]}, Facts(trigger="")),
    ({"objective.mask_outside": 0.5}, SD1),
    ({"adapter.init": "loftq", "run.quantize": "fp8"}, SD1),
    ({"sample.width": 0, "sample.height": 32, "sample.seed": 2**31 - 2}, SD1),
    ({"data.more_resolutions": [64, 768]}, SD1),
    ({"run.shard": True, "run.gradient_checkpointing": "full", "adapter.kind": "dora"}, SDXL),
]


@pytest.mark.parametrize(("changes", "facts", "told"), IMPOSSIBLE, ids=lambda value: str(value)[:50])
def test_what_cannot_be_is_named_with_the_mend(changes: dict[str, Any], facts: Facts, told: str) -> None:
    (found,) = problems(TrainConfig().with_changes(changes), facts)
    assert re.search(told, found), found


@pytest.mark.parametrize(("changes", "facts"), POSSIBLE, ids=lambda value: str(value)[:50])
def test_what_can_be_is_let_through(changes: dict[str, Any], facts: Facts) -> None:
    assert problems(TrainConfig().with_changes(changes), facts) == []


def test_nf4_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "bitsandbytes" in problems(TrainConfig().with_changes({"run.quantize": "nf4"}))[0]


ODD: list[tuple[dict[str, Any], Facts, str]] = [
    ({"adapter.factor": 8}, SD1, "adapter.factor (only with adapter.kind lokr)"),
    ({"optimizer.d_coef": 2.0, "adapter.conv_rank": 4}, SD1, "optimizer.d_coef (only with optimizer.kind prodigy"),
    ({"run.offload_blocks": 4}, SD1, "run.offload_blocks has no effect"),
    ({"run.offload_blocks": 4, "run.compile": True}, SDXL, "run.compile has no effect"),
    ({"run.shard": True}, Facts(processes=1), "run.shard has no effect: one process"),
    ({"data.more_resolutions": [512]}, SD1, "data.more_resolutions"),
    ({"data.more_resolutions": [768, 768]}, SD1, "data.more_resolutions"),
    ({"objective.preservation_prompts": ["a dog"]}, SD1, "objective.preservation is 0"),
    ({"objective.prior_weight": 0.5}, SD1, "data.regularization names no folder"),
    ({"run.ema_decay": 0.99, "optimizer.kind": "schedulefree_adamw", "schedule.kind": "constant"}, SD1, "ema_decay"),
    ({"optimizer.kind": "prodigy"}, SD1, "optimizer.unet_lr 0.0005, optimizer.text_encoder_lr 0.0001: set them to 1"),
    ({"optimizer.unet_lr": 1.0}, SD1, "Very high for adamw: optimizer.unet_lr 1;"),
    ({"optimizer.kind": "schedulefree_adamw"}, SD1, "set schedule.kind to constant"),
    ({"schedule.warmup_steps": 100}, Facts(steps=100), "never reaches its height"),
    ({"schedule.restarts": 11}, Facts(steps=10), "schedule.restarts 11"),
    ({"run.ema_decay": 0.999}, Facts(steps=100), "averages over about 1000 steps"),
    ({"run.gradient_accumulation": 4}, Facts(steps=1, batches=3), "run.gradient_accumulation 4"),
    ({"data.caption_dropout": 1.0}, SD1, "data.caption_dropout 1"),
    ({"data.tag_dropout": 1.0}, SD1, "data.tag_dropout 1"),
    ({"objective.preservation": 1.0, "objective.preservation_prompts": ["a Zorbi"]}, TAGGED, "holds the trigger"),
    ({"data.keep_tokens": 3}, TAGGED, "data.keep_tokens 3"),
    ({"data.balance": ["Blue", "green"]}, TAGGED, "no caption has green."),
    ({}, Facts(captions=("red", " ")), "1 of 2 pictures have an empty caption."),
    ({}, Facts(captions=("", ""), prose=("A hat.", "")), "1 of 2 pictures have an empty caption."),
    ({"data.balance": ["hat", "cap"]}, Facts(captions=("",), prose=("In a Hat.",)), "no caption has cap."),
    ({"data.tag_dropout": 0.1}, Facts(captions=("",), prose=("In a hat.",)), "there are no tags"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "facts", "told"), ODD, ids=lambda value: str(value)[:50])
def test_what_is_probably_not_meant_is_told_and_let_through(changes: dict[str, Any], facts: Facts, told: str) -> None:
    config = TrainConfig().with_changes(changes)
    assert any(told in text for text in warnings(config, facts)), warnings(config, facts)
    assert problems(config, facts) == []


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({}, TAGGED),
        ({"optimizer.kind": "prodigy", "optimizer.unet_lr": 1.0, "optimizer.text_encoder_lr": 0}, SD1),
        ({"run.ema_decay": 0.99, "schedule.restarts": 10}, Facts(steps=1000, batches=10)),
        ({"data.keep_tokens": 2}, TAGGED),
        ({"data.keep_tokens": 5, "data.shuffle_tags": False}, TAGGED),
        ({"adapter.kind": "lokr", "adapter.factor": 8}, SD1),
        ({"data.balance": ["hat"]}, Facts(captions=("", "hat"), prose=("In a hat.", ""))),
    ],
    ids=str,
)
def test_what_is_usual_is_not_warned_of(changes: dict[str, Any], facts: Facts) -> None:
    assert warnings(TrainConfig().with_changes(changes), facts) == []


@pytest.mark.parametrize("preset", presets.all_presets(), ids=lambda preset: preset.name)
def test_presets_are_in_order(preset: presets.Preset) -> None:
    config = TrainConfig.load({section: dict(values) for section, values in preset.settings.items()})
    facts = SDXL if "sdxl" in preset.name else Facts(family="sd1", text_layers=(12,), device="cuda")
    assert problems(config, facts) == [] and warnings(config, facts) == []


def test_text_layers_are_read_from_a_folder_and_known_for_a_file(base: Path, sdxl_base: Path, tmp_path: Path) -> None:
    assert text_layers(base, "sd1") == (2,) and text_layers(sdxl_base, "sdxl") == (3, 4)
    assert text_layers(tmp_path / "model.safetensors", "sdxl") == (12, 32)
    assert text_layers(tmp_path, "sd1") == ()


# --- through the training -------------------------------------------------------------------------------------------


def test_all_is_told_at_once_before_any_weight_is_loaded(
    make_job, context: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> None:
        raise AssertionError("too early")

    monkeypatch.setattr("lora_studio.engine.families.latent.load_part", load)
    wrong = {"optimizer__text_encoder_2_lr": 1e-4, "run__clip_skip": 5, "run__precision": "fp16", "sample__width": 16}
    with pytest.raises(SettingsError) as caught:
        train(make_job(**wrong), context)
    names = ["optimizer.text_encoder_2_lr", "run.clip_skip", "run.precision", "sample.width"]
    assert [problem.split()[0] for problem in caught.value.problems] == names


def test_patterns_that_fit_nothing_are_all_named(make_job, context: Recorder) -> None:
    wrong = {
        "adapter__include": ["unet", "up_blcks"],
        "adapter__exclude": ["mid_blok"],
        "adapter__ranks": ["down=4", "xy=2"],
    }
    with pytest.raises(SettingsError) as caught:
        train(make_job(**wrong), context)
    assert [text.partition(" fits")[0] for text in caught.value.problems] == [
        "adapter.include: up_blcks", "adapter.exclude: mid_blok", "adapter.ranks: xy",
    ]  # fmt: skip
    assert idle_patterns(AdapterConfig(exclude=("mid",)), ["unet.mid_block.0"]) == []


def test_unknown_names_and_impossible_values_are_told_together(make_job) -> None:
    job = make_job()
    job["settings"]["adapter"]["rnak"] = 4
    job["settings"]["optimizer"] |= {"betas": [2, 0.9], "rates": ["("], "unet_lr": 0, "text_encoder_lr": 0}
    job["settings"]["objective"] |= {"timestep_min": 500, "timestep_max": 500}
    job["settings"]["sample"]["width"] = 100
    job["settings"]["run"]["epochs"] = float("nan")
    with pytest.raises(SettingsError) as caught:
        TrainJob.load(job)
    text = "\n".join(caught.value.problems)
    for wanted in (
        "adapter.rnak: no such setting; did you mean rank?", "betas: both must lie", "optimizer.rates: '('",
        "are all 0: nothing would be trained", "timestep_min 500 is not below", "sample.width", "run.epochs",
    ):  # fmt: skip
        assert wanted in text


def test_odd_settings_are_told_while_training(make_job, context: Recorder) -> None:
    train(make_job(run__epochs=1, adapter__factor=8, data__balance=["nobody"]), context)
    notes = " ".join(note["text"] for note in context.of("Note") if note["level"] == "warning")
    assert "adapter.factor" in notes and "no caption has nobody" in notes


def test_small_settings_of_the_tests_are_in_order() -> None:
    assert problems(settings(), SD1) == [] and warnings(settings(), TAGGED) == []
