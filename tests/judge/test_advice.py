import tomllib

import pytest

from lora_studio.core import paths
from lora_studio.engine.buckets import steps_for
from lora_studio.engine.config import TrainConfig
from lora_studio.judge.advice import STEPS, TARGETS, recommend

FAMILIES = ("starter", "sd1", "sdxl")


def preset(kind, family):
    data = tomllib.loads((paths.presets() / f"{kind}-{family}.toml").read_text("utf-8"))
    data.pop("preset")
    return data


def config(kind, family, count, device="cuda", wish="balanced"):
    settings = preset(kind, family)
    merged = {name: {**values, **settings.get(name, {})} for name, values in TrainConfig().to_dict().items()}
    return TrainConfig.load(merged).with_changes(recommend(kind, family, count, device, wish, settings).changes)


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wish", ["safe", "balanced", "aggressive"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_trainers_own_step_count_falls_into_the_guides_range(kind, family, wish, device):
    low, high = STEPS[kind]
    for count in (1, 5, *TARGETS[kind], 24, 100):
        plan = steps_for([(512, 512, 1)] * count, config(kind, family, count, device, wish))
        assert low * 0.85 <= plan.steps <= high * 1.1, (count, plan.sentence)


@pytest.mark.parametrize(
    ("kind", "rank", "alpha", "unet", "text"),
    [("character", 8, 4, 5e-4, 1e-4), ("style", 16, 8, 3e-4, 5e-5), ("concept", 12, 6, 4e-4, 8e-5)],
)
def test_the_guides_recipes_stand_unchanged_for_stable_diffusion_1(kind, rank, alpha, unet, text):
    found = config(kind, "sd1", TARGETS[kind][0])
    assert (found.adapter.rank, found.adapter.alpha) == (rank, alpha)
    assert (found.optimizer.unet_lr, found.optimizer.text_encoder_lr) == (unet, text)


def test_a_safe_wish_lowers_the_rates_and_takes_longer():
    safe, bold = (config("character", "sd1", 30, wish=wish) for wish in ("safe", "aggressive"))
    assert safe.optimizer.unet_lr == 2.5e-4 and bold.optimizer.unet_lr == 7.5e-4
    steps = [steps_for([(512, 512, 1)] * 30, found).steps for found in (safe, bold)]
    assert steps[0] > 1.5 * steps[1]


def test_a_style_for_sdxl_leaves_the_text_part_alone_whatever_the_wish():
    assert config("style", "sdxl", 60, wish="aggressive").optimizer.text_encoder_lr == 0


def test_few_pictures_get_a_smaller_adapter_at_the_same_scale():
    few, enough = config("character", "sd1", 4), config("character", "sd1", 20)
    assert few.adapter.rank == 4 and few.adapter.alpha / few.adapter.rank == enough.adapter.alpha / enough.adapter.rank


def test_a_cpu_takes_large_bases_one_picture_at_a_time_but_learns_alike():
    found = config("character", "sd1", 20, device="cpu")
    assert (found.data.batch_size, found.run.gradient_accumulation) == (1, 2)
    assert config("character", "starter", 20, device="cpu").data.batch_size == 4


def test_every_change_has_a_reason_with_its_number():
    advice = recommend("style", "sd1", 3, "cpu", "safe", preset("style", "sd1"))
    assert set(advice.changes) <= set(advice.reasons)
    assert "3 pictures" in advice.reasons["adapter.rank"] and "500 to 1500" in advice.reasons["run.epochs"]


def test_many_epochs_are_not_all_saved():
    found = config("character", "starter", 1)
    assert found.run.epochs > 20 and found.run.epochs / found.run.save_every_epochs <= 10


def test_a_set_too_large_for_the_range_is_said():
    advice = recommend("character", "sd1", 4000, "cuda", "balanced", preset("character", "sd1"))
    assert advice.changes["run.epochs"] == 1 and "does not fit" in advice.reasons["run.epochs"]
    assert advice.changes["run.validation_share"] == 0.1
