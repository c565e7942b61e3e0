import pytest

from lora_studio.core import presets
from lora_studio.core.errors import UserError
from lora_studio.core.project import KINDS, Plan
from lora_studio.engine.config import TrainConfig
from lora_studio.steps import conception


def test_three_samples_ship_with_the_studio():
    samples = conception.samples()
    assert [sample.kind for sample in samples] == list(KINDS)
    for sample in samples:
        assert sample.plan.trigger and sample.plan.test_prompts and sample.plan.bleed_prompts and sample.plan.licence
        assert 20 <= sample.num_pictures <= 36
        assert all(sample.plan.trigger not in prompt for prompt in sample.plan.bleed_prompts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_becomes_a_project_that_knows_its_pictures(tmp_path, kind):
    project = conception.from_sample(tmp_path, kind)
    assert project.plan == conception.sample(kind).plan
    assert conception.sample_pictures(project) == conception.sample(kind).pictures


@pytest.mark.parametrize("kind", KINDS)
def test_the_recommendation_gives_a_reason_for_what_it_changes(tmp_path, kind):
    found = conception.recommend(conception.from_sample(tmp_path, kind))
    assert found.preset == f"{kind}-starter" and found.reasons
    names = {name for name, _ in _flat(found.config.to_dict())}
    assert set(found.reasons) <= names and all(len(reason) > 20 for reason in found.reasons.values())
    assert found.config.data.resolution == 64


def _flat(data, prefix=""):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("preset", presets.all_presets(), ids=lambda preset: preset.name)
def test_every_shipped_preset_loads(preset):
    config = TrainConfig.load(conception._merged(preset.settings))
    assert preset.title and preset.description and preset.source
    flat = dict(_flat(config.to_dict()))
    assert all(
        flat[name] == (list(value) if isinstance(value, tuple) else value) for name, value in _flat(preset.settings)
    )


def test_the_guides_three_recipes_are_there():
    names = {preset.name for preset in presets.all_presets()}
    assert {f"{kind}-{family}" for kind in KINDS for family in ("starter", "sd1", "sdxl")} <= names


def test_a_saved_preset_is_found_again(tmp_path):
    presets.save(tmp_path, "My Own", {"adapter": {"rank": 32}})
    assert presets.load("my-own", tmp_path).settings == {"adapter": {"rank": 32}}
    with pytest.raises(UserError, match="shipped"):
        presets.save(tmp_path, "character-sd1", {})


def test_a_base_that_is_no_model_is_refused_with_the_reason(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04\x95")
    (tmp_path / "empty").mkdir()
    for name in ("text.safetensors", "old.ckpt", "empty", "nowhere"):
        with pytest.raises(UserError) as caught:
            conception.create(tmp_path / "projects", Plan(name="x", base=str(tmp_path / name)))
        assert name in str(caught.value) and caught.value.remedy
    assert not list((tmp_path / "projects").glob("*"))


def test_the_trigger_is_put_in_front_where_it_is_missing():
    plan = Plan(name="x", trigger="zorbi")
    assert conception.with_trigger(plan, ("smile", "a Zorbi")) == ["zorbi, smile", "a Zorbi"]
    assert conception.with_trigger(plan, ()) == ["zorbi"]
