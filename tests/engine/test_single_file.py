"""Bases in one file: every tensor and every answer is that of the model that was written, bit for bit."""

import copy
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import single_file_utils

from lora_studio.core.errors import UserError
from lora_studio.engine.families.single_file import SingleFile, clip_tokenizer, differences, sources
from lora_studio.engine.layouts import LayoutError, read_layout, read_vae
from lora_studio.engine.tokens import clip_vocabulary
from tests.engine import published
from tests.engine.original import clip_state, open_clip_state, tiny_parts, vae_state, whole_state, write

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], Path]:
    """A family, its tiny parts, and the file of them."""
    parts = tiny_parts(request.param)
    path = tmp_path_factory.mktemp(request.param) / "base.safetensors"
    return request.param, parts, write(path, whole_state(request.param, parts))


def answers(name: str, network: Any) -> list[torch.Tensor]:
    """What a part says to fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    noise = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    if name == "vae":
        latents = network.encode(noise(1, 3, 32, 32)).latent_dist.mode()
        return [latents, network.decode(latents).sample]
    if name == "unet":
        width, added = network.config.cross_attention_dim, None
        if network.config.addition_embed_type:
            added = {"text_embeds": noise(1, 96), "time_ids": torch.tensor([[512.0, 512, 0, 0, 512, 512]])}
        return [network(noise(1, 4, 16, 16), torch.tensor([321]), noise(1, 77, width), added_cond_kwargs=added).sample]
    tokens = torch.tensor([[49406, 320, 1125, 539, 49407, 49407]])
    answer = network(tokens, output_hidden_states=True)
    last = answer.text_embeds if name == "text_encoder_2" else answer.pooler_output
    return [answer.last_hidden_state, last, *answer.hidden_states]


def test_every_tensor_and_answer_is_that_of_the_written_model(written) -> None:
    family, parts, path = written
    file = SingleFile(path)
    assert set(file.layout.parts) == set(parts)
    for name, part in parts.items():
        found = file.part(name, torch.float32)
        assert type(found) is type(part) and not found.training
        state, expected = found.state_dict(), part.state_dict()
        assert set(state) == set(expected)
        for key, tensor in expected.items():
            assert torch.equal(state[key], tensor), f"{name}.{key}"
        with torch.no_grad():
            for got, wanted in zip(answers(name, found), answers(name, part), strict=True):
                assert torch.equal(got, wanted), f"{family} {name}"


@pytest.mark.parametrize("layers", [1, 3])
def test_other_numbers_of_layers_are_inferred(layers: int, tmp_path: Path) -> None:
    parts = tiny_parts("sd1", layers=layers, vocabulary=600)
    found = SingleFile(write(tmp_path / "b.safetensors", whole_state("sd1", parts))).part("unet", torch.float32)
    assert found.config.layers_per_block == layers
    assert all(torch.equal(found.state_dict()[key], tensor) for key, tensor in parts["unet"].state_dict().items())


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_configurations_are_inferred_at_full_size(family: str) -> None:
    parts = {name: published.part(family, name) for name in published.PARTS[family]}
    layout = read_layout(shapes_of(whole_state(family, parts)))
    for name, network in parts.items():
        part = layout.parts[name]
        assert differences(part, sources(part, network)) == ([], []), "nothing lacks and nothing is left over"
        for argument, value in published.PARTS[family][name][1].items():
            given = part.config.get(argument)
            if name == "text_encoder" and argument == "projection_dim":
                continue  # of no use in a text encoder without projection
            assert (list(given) if isinstance(given, tuple) else given) == (
                list(value) if isinstance(value, tuple) else value
            ), f"{name}.{argument}"
    assert layout.family == family
    assert layout.parts["vae"].config["scaling_factor"] == (0.13025 if family == "sdxl" else 0.18215)


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_own_conversion_gives_the_same(family: str, tmp_path: Path) -> None:
    """The reference: what diffusers makes of the same file."""
    parts = tiny_parts(family, vocabulary=600)
    state = whole_state(family, parts)
    file = SingleFile(write(tmp_path / "base.safetensors", state))
    unet, vae = file.part("unet", torch.float32), file.part("vae", torch.float32)
    theirs = single_file_utils.convert_ldm_unet_checkpoint(dict(state), dict(unet.config))
    assert set(theirs) == set(unet.state_dict())
    assert all(torch.equal(theirs[name], tensor) for name, tensor in unet.state_dict().items())
    theirs = single_file_utils.convert_ldm_vae_checkpoint(dict(state), dict(vae.config))
    assert set(theirs) == set(vae.state_dict())
    assert all(torch.equal(theirs[name], tensor) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("size", ["H", "bigG"])
def test_open_clips_own_class_has_the_keys_that_are_read(size: str) -> None:
    open_clip = pytest.importorskip("open_clip")
    config = open_clip.get_model_config(f"ViT-{size}-14")["text_cfg"]
    with torch.device("meta"):
        tower = open_clip.transformer.TextTransformer(
            context_length=77, vocab_size=49408, width=config["width"], heads=config["heads"], layers=config["layers"],
            output_dim=1280 if size == "bigG" else 1024,
        )  # fmt: skip
    keys = shapes_of(dict(tower.state_dict()))
    name = {"H": "text_encoder", "bigG": "text_encoder_2"}[size]
    ours = open_clip_state(published.part({"H": "sd2", "bigG": "sdxl"}[size], name), spare_layers=int(size == "H"))
    assert keys == {key: shape for key, shape in shapes_of(ours).items() if key != "logit_scale"}


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_only_the_part_asked_for_is_read(name: str, tmp_path: Path) -> None:
    """Other parts may lie in a hole of the disk, or their numbers may be wrong."""
    parts = tiny_parts("sd1", vocabulary=600)
    state = whole_state("sd1", parts)
    prefix = {"unet": "model.diff", "vae": "first_st", "text_encoder": "cond_st"}[name]
    only = {key: tensor if key.startswith(prefix) else torch.zeros_like(tensor) for key, tensor in state.items()}
    found = SingleFile(write(tmp_path / "b.safetensors", only)).part(name, torch.float32)
    assert all(torch.equal(found.state_dict()[key], tensor) for key, tensor in parts[name].state_dict().items())


def test_weights_are_given_in_the_format_asked_for(written) -> None:
    _, parts, path = written
    for dtype in (torch.float16, torch.bfloat16):
        found = SingleFile(path).part("text_encoder", dtype)
        for key, tensor in parts["text_encoder"].state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor.to(dtype))


def test_moving_averages_and_schedules_in_the_file_are_ignored(tmp_path: Path) -> None:
    state = whole_state("sd1", tiny_parts("sd1", vocabulary=600))
    more = {"model_ema.diffusion_modelinput_blocks00weight": torch.ones(3), "model_ema.decay": torch.ones(())}
    more |= {
        "betas": torch.ones(1000),
        "alphas_cumprod": torch.ones(1000),
        "cond_stage_model.logit_scale": torch.ones(()),
    }
    more |= {
        "first_stage_model.loss.logvar": torch.ones(()),
        "cond_stage_model.transformer.text_projection.weight": torch.ones(64, 64),
    }
    plain = SingleFile(write(tmp_path / "plain.safetensors", state))
    full = SingleFile(write(tmp_path / "full.safetensors", state | more))
    for name in ("unet", "vae", "text_encoder"):
        one, other = plain.part(name, torch.float32).state_dict(), full.part(name, torch.float32).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_old_files_without_the_level_text_model_are_read(tmp_path: Path) -> None:
    parts = tiny_parts("sd1", vocabulary=600)
    state = {k: v for k, v in whole_state("sd1", parts).items() if not k.startswith("cond_stage")}
    state |= {f"cond_stage_model.transformer.{k}": v for k, v in clip_state(parts["text_encoder"], level="").items()}
    found = SingleFile(write(tmp_path / "old.safetensors", state)).part("text_encoder", torch.float32)
    assert all(torch.equal(found.state_dict()[k], v) for k, v in parts["text_encoder"].state_dict().items())


HARMS: dict[str, tuple[Any, str]] = {
    "missing in the unet": (
        lambda s: s.pop("model.diffusion_model.input_blocks.1.0.in_layers.2.bias"),
        "lacks model.diffusion_model.input_blocks.1.0.in_layers.2.bias."),
    "odd in the unet": (
        lambda s: s.update({"model.diffusion_model.input_blocks.1.1.extra": torch.ones(1)}), "input_blocks.1.1.extra"),
    "another shape": (
        lambda s: s.update({"model.diffusion_model.out.0.weight": torch.ones(5)}), "out.0.weight has the shape (5,)"),
    "no first convolution": (
        lambda s: s.pop("model.diffusion_model.input_blocks.0.0.weight"), "lacks input_blocks.0.0.weight"),
    "a scalar in its place": (
        lambda s: s.update({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(())}), "odd shape"),
    "more inputs": (
        lambda s: s.update({"model.diffusion_model.label_emb.0.0.weight": torch.ones(4, 4)}), "label_emb"),
    "a layer fewer": (
        lambda s: [s.pop(k) for k in list(s) if ".input_blocks.5." in k], "uneven"),
    "no attention in the middle": (
        lambda s: [s.pop(k) for k in list(s) if ".middle_block.1." in k], "uneven"),
    "no VAE": (lambda s: [s.pop(k) for k in list(s) if k.startswith("first")], "lacks the VAE"),
    "no text encoder": (lambda s: [s.pop(k) for k in list(s) if k.startswith("cond")], "lacks the text encoder"),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_what_lacks_or_is_odd_is_named(harm: str, tmp_path: Path) -> None:
    state = whole_state("sd1", tiny_parts("sd1", vocabulary=600))
    change, words = HARMS[harm]
    change(state)
    path = write(tmp_path / "base.safetensors", state)
    with pytest.raises(UserError) as caught:
        SingleFile(path).part("unet", torch.float32)
    assert words in str(caught.value) and caught.value.remedy


def test_sizes_that_the_published_make_does_not_allow_are_refused(tmp_path: Path) -> None:
    """Normalisation in 32 groups is not in the file, so narrower layers cannot be understood."""
    parts = tiny_parts("sd1", vocabulary=600)
    parts["unet"] = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=64, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    with pytest.raises(UserError, match="odd make"):
        SingleFile(write(tmp_path / "b.safetensors", whole_state("sd1", parts))).part("unet", torch.float32)


def test_a_file_that_is_cut_off_is_refused(written, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(written[2].read_bytes()[:-100])
    with pytest.raises(UserError, match="cut off"):
        SingleFile(cut)


# --- VAE alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["original", "prefixed", "diffusers"])
def test_a_vae_alone_is_read_in_all_its_layouts(layout: str, tmp_path: Path) -> None:
    vae = tiny_parts("sd1", vocabulary=600)["vae"]
    state = dict(vae.state_dict()) if layout == "diffusers" else vae_state(vae)
    if layout == "prefixed":
        state = {f"first_stage_model.{name}": tensor for name, tensor in state.items()}
    file = SingleFile(write(tmp_path / "vae.safetensors", state), scaling_factor=0.13025)
    found = file.part("vae", torch.float32)
    assert found.config.scaling_factor == 0.13025
    for got, wanted in zip(answers("vae", found), answers("vae", vae), strict=True):
        assert torch.equal(got, wanted)
    with pytest.raises(UserError, match="has no unet"):
        file.part("unet", torch.float32)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        SingleFile(write(tmp_path / "x.safetensors", {"a": torch.ones(2)}))
    with pytest.raises(LayoutError):
        read_vae({})
    with pytest.raises(LayoutError):
        read_layout({})


# --- tokenizer, schedule, identity ------------------------------------------------------------------------------

TEXTS = [
    "a photo of a cat", "1girl, solo, zorbi, long hair, ^_^, :d", "Ünïcödé 中文 — 日本語 😀", "", "it's 3.14%, don't!",
    "masterpiece (best quality:1.2) \\(series\\)", "x" * 300,
]  # fmt: skip


def test_the_tokenizer_is_open_clips(written) -> None:
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.tokenizer.SimpleTokenizer(clean="lower")
    ours = clip_tokenizer("!")
    for text in TEXTS:
        assert ours(text, add_special_tokens=False).input_ids == theirs.encode(text.lower()), text


def test_the_vocabulary_has_clips_size_and_ends_with_its_signs() -> None:
    vocabulary, merges = clip_vocabulary()
    assert len(vocabulary) == 49408 and len(merges) == 48894
    assert (vocabulary["!"], vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (0, 49406, 49407)


def test_each_text_encoder_is_padded_as_it_was_trained(written) -> None:
    family, _, path = written
    file = SingleFile(path)
    padded = {"sd1": 49407, "sd2": 0, "sdxl": 49407}
    row = file.tokenizer("tokenizer")("cat", padding="max_length").input_ids
    assert len(row) == 77 and row[:3] == [49406, 2368, 49407] and set(row[3:]) == {padded[family]}
    if family == "sdxl":
        assert file.tokenizer("tokenizer_2")("cat", padding="max_length").input_ids[3:] == [0] * 74


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "b.safetensors", whole_state("sd1", tiny_parts("sd1", vocabulary=600)))
    with pytest.raises(UserError, match="600 word pieces"):
        SingleFile(path).tokenizer()


@pytest.mark.parametrize(
    ("family", "more", "metadata", "prediction", "zero"),
    [
        ("sd1", {}, {}, "epsilon", False),
        ("sd2", {}, {}, "v_prediction", False),
        ("sd2", {}, {"modelspec.prediction_type": "epsilon"}, "epsilon", False),
        ("sdxl", {}, {}, "epsilon", False),
        ("sdxl", {}, {"modelspec.prediction_type": "v"}, "v_prediction", False),
        ("sdxl", {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, {}, "v_prediction", True),
        ("sd1", {}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", False),
    ],
)
def test_the_noise_schedule_says_what_the_file_says(
    family: str, more: dict, metadata: dict, prediction: str, zero: bool, tmp_path: Path
) -> None:
    state = whole_state(family, tiny_parts(family, vocabulary=600)) | more
    config = SingleFile(write(tmp_path / "b.safetensors", state, metadata)).scheduler_config()
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == (prediction, zero)
    assert (config["beta_start"], config["beta_end"], config["beta_schedule"]) == (0.00085, 0.012, "scaled_linear")


def test_the_identity_follows_the_weights_of_its_part_only(tmp_path: Path) -> None:
    state = whole_state("sd1", tiny_parts("sd1", vocabulary=600))
    one = SingleFile(write(tmp_path / "1.safetensors", state))
    changed = copy.copy(state)
    changed["first_stage_model.quant_conv.bias"] = changed["first_stage_model.quant_conv.bias"] + 1
    other = SingleFile(write(tmp_path / "2.safetensors", changed, {"note": "other metadata"}))
    assert one.identity("vae") != other.identity("vae")
    assert one.identity("unet") == other.identity("unet") and len(one.identity("unet")) == 64
