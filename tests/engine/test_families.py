"""Base models: how their parts are found and read, and what each family makes of pictures and captions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lora_studio.core.errors import UserError
from lora_studio.core.paths import assets
from lora_studio.engine.config import BaseConfig, ObjectiveConfig
from lora_studio.engine.families import open_family
from lora_studio.engine.families.latent import LatentFamily
from lora_studio.engine.families.layers import text_layers, unet_layers
from lora_studio.engine.families.parts import load_part, weight_files
from lora_studio.engine.families.sd import StableDiffusion, StableDiffusion2
from lora_studio.engine.families.sdxl import StableDiffusionXL
from tests.engine.conftest import KINDS
from tests.engine.original import tiny_parts, vae_state, whole_state, write
from tests.tiny import make_vae, text_config

CPU, FP32 = torch.device("cpu"), torch.float32


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may change."""
    return Path(shutil.copytree(base, tmp_path / "copy"))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# --- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_frozen_and_can_be_let_go(kind: str, open_base: Callable) -> None:
    family = open_base(kind)
    for name in ("unet", "vae", *family.text_parts):
        assert not family.loaded(name)
        part = family.part(name)
        assert family.loaded(name) and family.part(name) is part
        assert not part.training and not any(p.requires_grad for p in part.parameters())
        family.release(name)
        assert not family.loaded(name) and same(family.part(name), part)


@pytest.mark.parametrize("kind", ["base", "sdxl_base"])
def test_text_encoders_are_read_in_either_spelling(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """transformers 5 writes CLIPTextModel without `text_model.`, all before wrote it with."""
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "copy"))
    before = load_part(folder, "text_encoder", FP32)
    file = folder / "text_encoder/model.safetensors"
    tensors = load_file(file)
    bare = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    for spelling in (bare, {f"text_model.{name}": value for name, value in bare.items()}):
        save_file(spelling, file, {"format": "pt"})
        assert same(load_part(folder, "text_encoder", FP32), before)


@pytest.mark.parametrize("variant", ["fp16", ""])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("name", ["unet", "text_encoder"])
def test_variants_and_shards_are_read(variant: str, shards: bool, name: str, copy: Path) -> None:
    before = load_part(copy, name, FP32)
    for file in (copy / name).glob("*.safetensors"):
        file.unlink()
    before.save_pretrained(copy / name, variant=variant or None, max_shard_size="20KB" if shards else "1GB")
    found, files = weight_files(copy / name)
    assert found == variant and (len(files) > 1) == shards
    assert same(load_part(copy, name, FP32), before)


def test_the_plain_weights_come_before_the_halved_ones(copy: Path) -> None:
    before = load_part(copy, "unet", FP32)
    load_part(copy, "unet", torch.float16).save_pretrained(copy / "unet", variant="fp16")
    assert weight_files(copy / "unet")[0] == "" and same(load_part(copy, "unet", FP32), before)


def test_pickles_are_never_read(copy: Path) -> None:
    unet = load_part(copy, "unet", FP32)
    next((copy / "unet").glob("*.safetensors")).unlink()
    torch.save(unet.state_dict(), copy / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"copy/unet has no \.safetensors file"):
        load_part(copy, "unet", FP32)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_named_and_not_made_up(name: str, copy: Path) -> None:
    file = next((copy / name).glob("*.safetensors"))
    tensors = load_file(file)
    lost = sorted(tensors)[3]
    save_file({key: value for key, value in tensors.items() if key != lost}, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"copy/{name} .*{lost.removeprefix('text_model.')}"):
        load_part(copy, name, FP32)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_damaged_and_alien_weights_are_refused(name: str, copy: Path) -> None:
    file = next((copy / name).glob("*.safetensors"))
    tensors = load_file(file)
    wide = max(tensors, key=lambda key: tensors[key].numel())
    save_file(tensors | {wide: torch.zeros(3, 3)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"copy/{name}"):
        load_part(copy, name, FP32)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"copy/{name}"):
        load_part(copy, name, FP32)


def test_a_folder_without_tokenizer_or_schedule_is_refused(base: Path, tmp_path: Path) -> None:
    for name in ("tokenizer", "scheduler"):
        folder = Path(shutil.copytree(base, tmp_path / name))
        shutil.rmtree(folder / name)
        with pytest.raises(UserError, match=f"The base model {name} cannot be opened"):
            StableDiffusion.load(folder, CPU, FP32)


# --- identity ---------------------------------------------------------------------------------------------------


def test_identity_follows_content_and_not_place(base: Path, epsilon_base: Path, copy: Path) -> None:
    one, other = StableDiffusion.load(base, CPU, FP32), StableDiffusion.load(copy, CPU, FP32)
    for name in ("unet", "vae", "text"):
        assert one.identity(name) == other.identity(name)
    change_json(copy / "vae/config.json", scaling_factor=0.25)  # other latents from the same weights
    (copy / "tokenizer/tokenizer.json").write_text((copy / "tokenizer/tokenizer.json").read_text() + " ")
    assert one.identity("vae") != other.identity("vae") and one.identity("text") != other.identity("text")
    assert one.identity("unet") == other.identity("unet")


def test_text_identity_covers_both_encoders(sdxl_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl_base, tmp_path / "xl"))
    before = StableDiffusionXL.load(folder, CPU, FP32).identity("text")
    file = folder / "text_encoder_2/model.safetensors"
    save_file({name: value * 2 for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert StableDiffusionXL.load(folder, CPU, FP32).identity("text") != before


# --- another VAE ------------------------------------------------------------------------------------------------


def test_another_vae_takes_the_place_of_the_bases_own(base: Path, sdxl_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    make_vae(0.7).save_pretrained(tmp_path / "vae-alone")
    own = StableDiffusion.load(base, CPU, FP32)
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    for vae, scaling in ((tmp_path / "vae-alone", 0.7), (sdxl_base, 0.25)):
        family = StableDiffusion.load(base, CPU, FP32, BaseConfig(vae=str(vae)))
        assert family.part("vae").config.scaling_factor == scaling
        assert not torch.allclose(family.encode_images(pixels), own.encode_images(pixels))
        assert family.identity("vae") != own.identity("vae") and family.identity("unet") == own.identity("unet")


def test_a_vae_that_does_not_fit_is_named_with_the_mend(base: Path, tmp_path: Path) -> None:
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=16).save_pretrained(tmp_path / "wide")
    for name, words in (("wide", "16 channels; the base reads 4"), ("nowhere", "There is no VAE at")):
        family = StableDiffusion.load(base, CPU, FP32, BaseConfig(vae=str(tmp_path / name)))
        with pytest.raises(UserError, match=words) as caught:
            family.part("vae")
        assert "base.vae" in str(caught.value)


@pytest.mark.parametrize(("kind", "scaling"), [("base", 0.5), ("sdxl_base", 0.25)])
def test_a_vae_in_one_file_is_scaled_as_the_bases_own(
    kind: str, scaling: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    vae = tiny_parts("sd1")["vae"]
    file = write(tmp_path / "vae.safetensors", vae_state(vae))
    family = KINDS[kind].load(request.getfixturevalue(kind), CPU, FP32, BaseConfig(vae=str(file)))
    assert family.part("vae").config.scaling_factor == scaling and same(family.part("vae"), vae)
    assert family.identity("vae") != KINDS[kind].load(family.path, CPU, FP32).identity("vae")


# --- a base in one file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("sd1", StableDiffusion), ("sd2", StableDiffusion2), ("sdxl", StableDiffusionXL)]
)
def test_a_base_in_one_file_reads_and_answers_like_its_parts(name: str, kind: type, tmp_path: Path) -> None:
    parts = tiny_parts(name)
    file = write(tmp_path / "base.safetensors", whole_state(name, parts))
    family = kind.load(file, CPU, FP32)
    assert all(same(family.part(part), network) for part, network in parts.items())
    own = [family.identity(part) for part in ("unet", "vae", "text")]
    assert len(set(own)) == 3
    text = family.encode_text(["a red cat"], 1)
    tokens = [49406, 320, 736, 2368, 49407]
    answer = parts[family.text_parts[-1]](torch.tensor([tokens]), output_hidden_states=True)
    states = answer.hidden_states[-2] if name == "sdxl" else answer.last_hidden_state
    assert torch.allclose(text.states[0, :5, -states.shape[-1] :], states[0], atol=1e-5)
    assert (text.pooled is None) == (name != "sdxl")
    if text.pooled is not None:
        assert torch.allclose(text.pooled, answer.text_embeds, atol=1e-5)
    assert family.prediction_type == ("v_prediction" if name == "sd2" else "epsilon")
    assert kind.load(file, CPU, FP32, BaseConfig(prediction="v_prediction")).prediction_type == "v_prediction"


# --- noise schedule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon_base", "sdxl_base"])
def test_what_the_settings_say_wins_over_the_base(kind: str, open_base: Callable) -> None:
    said, told = open_base(kind), open_base(kind, prediction="v_prediction", zero_terminal_snr="yes")
    assert said.prediction_type == "epsilon" and told.prediction_type == "v_prediction"
    noise, latents = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    assert torch.equal(said.target(latents, noise, torch.tensor([0])), noise)
    assert not torch.equal(told.target(latents, noise, torch.tensor([0])), noise)
    sampler = told.sampler("euler")
    assert sampler.config.prediction_type == "v_prediction" and sampler.config.rescale_betas_zero_snr
    assert sampler.config.timestep_spacing == "trailing"
    assert told.metadata()["ss_zero_terminal_snr"] == "True" and told.metadata()["modelspec.prediction_type"] == "v"


def test_zero_terminal_snr_can_be_turned_off(open_base: Callable) -> None:
    assert open_base("base").alphas_cumprod[-1] == 0
    assert open_base("base", zero_terminal_snr="no").alphas_cumprod[-1] > 0


def test_schedules_of_another_nature_are_refused(copy: Path) -> None:
    path = copy / "scheduler/scheduler_config.json"
    change_json(path, prediction_type="flow_prediction")
    with pytest.raises(UserError, match="flow_prediction"):
        StableDiffusion.load(copy, CPU, FP32)
    StableDiffusion.load(copy, CPU, FP32, BaseConfig(prediction="epsilon"))
    for name in ("FlowMatchEulerDiscreteScheduler", "EDMDPMSolverMultistepScheduler"):
        change_json(path, _class_name=name, prediction_type="epsilon")
        with pytest.raises(UserError, match=name):
            StableDiffusion.load(copy, CPU, FP32)


def test_timesteps_are_drawn_from_the_generator(open_base: Callable) -> None:
    family = open_base("base")
    one, two = (family.draw_timesteps(9, ObjectiveConfig(), torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == (9,) and one.dtype == torch.long
    assert one.min() >= 0 and one.max() < 1000 and len(one.unique()) > 3
    assert family.fixed_timesteps(4).tolist() == [125, 375, 625, 875]


# --- encoding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "sdxl_base"])
def test_latents_are_the_vaes_most_likely_ones_scaled(kind: str, open_base: Callable) -> None:
    family = open_base(kind)
    pixels = torch.rand(2, 3, 24, 32) * 2 - 1
    latents = family.encode_images(pixels)
    vae = family.part("vae")
    with torch.no_grad():
        wanted = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    assert torch.equal(latents, wanted) and latents.shape == (2, 4, 6, 8)
    assert torch.allclose(family.decode_images(latents), vae.decode(wanted / vae.config.scaling_factor).sample)


def test_the_vae_stays_in_fp32(base: Path) -> None:
    family = StableDiffusion.load(base, CPU, torch.bfloat16)
    latents = family.encode_images(torch.rand(1, 3, 16, 16).bfloat16())
    family.pipeline("ddim")
    assert latents.dtype == family.part("vae").dtype == FP32
    assert family.part("unet").dtype == family.part("text_encoder").dtype == torch.bfloat16


def test_a_layer_that_is_not_there_cannot_be_read(open_base: Callable) -> None:
    for kind, most in (("base", 2), ("sd2_base", 3), ("sdxl_base", 2)):
        family = open_base(kind)
        family.encode_text(["cat"], most)
        with pytest.raises(UserError, match=f"run.clip_skip {most + 1} is more"):
            family.encode_text(["cat"], most + 1)


def test_a_caption_does_not_depend_on_its_company(open_base: Callable) -> None:
    family = open_base("sdxl_base")
    alone, among = family.encode_text(["cat"], 1), family.encode_text(["a dog", "cat", "x " * 90], 1)[1:2]
    for name, value in alone.tensors().items():
        assert torch.allclose(value, among.tensors()[name], atol=1e-6), name


def test_gradients_reach_every_text_encoder(open_base: Callable) -> None:
    family = open_base("sdxl_base")
    weights = []
    for name in family.text_parts:
        layer = family.part(name).get_submodule(text_layers(family.part(name), "attention")[0])
        weights.append(layer.weight.requires_grad_(True))
    text = family.encode_text(["a (red:1.3) cat"], 1, 2, weighted=True)
    (text.states.square().sum() + text.pooled.square().sum()).backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights)


# --- names ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdxl() -> dict[str, torch.nn.Module]:
    """The networks of SDXL 1.0 without weights."""
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(
                block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
                transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time", addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            "text_encoder": CLIPTextModel(text_config(768, 12)),
            "text_encoder_2": CLIPTextModelWithProjection(text_config(1280, 32, projection_dim=1280)),
        }  # fmt: skip


def test_sdxl_has_as_many_modules_as_in_sd_scripts(sdxl: dict[str, torch.nn.Module]) -> None:
    assert len(unet_layers(sdxl["unet"], "attention+ff")) == 722
    assert len(unet_layers(sdxl["unet"], "all")) == 788
    assert len(text_layers(sdxl["text_encoder"], "attention+ff")) == 72
    assert len(text_layers(sdxl["text_encoder_2"], "attention+ff")) == 192


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", ["attention", "attention+ff", "all"])
def test_every_adapted_module_has_a_name_of_its_own(kind: str, layers: str, open_base: Callable) -> None:
    family = open_base(kind)
    parts = ["unet", *family.text_parts]
    found = family.adapter_layers(layers, parts)
    assert list(found) == parts
    names = [family.key_name(part, module) for part, modules in found.items() for module in modules]
    assert len(names) == len(set(names)) > 10
    starts = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"} if len(parts) > 2 else {}
    for part, modules in found.items():
        start = "lora_unet_" if part == "unet" else starts.get(part, "lora_te_")
        assert all(family.key_name(part, module).startswith(start) for module in modules)
        assert all(isinstance(family.part(part).get_submodule(module), torch.nn.Module) for module in modules)


@pytest.mark.parametrize(
    ("kind", "version", "architecture"),
    [
        ("base", "sd_v1_v", "stable-diffusion-v1/lora"),
        ("epsilon_base", "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2_base", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("sdxl_base", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_files_say_what_base_they_are_for(kind: str, version: str, architecture: str, open_base: Callable) -> None:
    told = open_base(kind).metadata()
    assert told["ss_base_model_version"] == version and told["modelspec.architecture"] == architecture
    assert told["ss_v2"] == str(KINDS[kind] is StableDiffusion2)
    assert all(isinstance(value, str) for value in told.values())


def test_a_base_is_opened_as_the_family_it_is_of(base: Path, sdxl_base: Path, tmp_path: Path) -> None:
    assert type(open_family(base, CPU, FP32)) is StableDiffusion
    family = open_family(sdxl_base, CPU, FP32, BaseConfig(prediction="v_prediction"))
    assert type(family) is StableDiffusionXL and family.prediction_type == "v_prediction"
    file = write(tmp_path / "xl.safetensors", whole_state("sdxl", tiny_parts("sdxl")))
    assert type(open_family(file, CPU, FP32)) is StableDiffusionXL
    lora = write(tmp_path / "lora.safetensors", {"lora_unet_x.lora_down.weight": torch.ones(1, 2)})
    with pytest.raises(UserError, match=r"lora\.safetensors cannot be used"):
        open_family(lora, CPU, FP32)


def test_the_starter_opens_and_reads_its_own_text_pool() -> None:
    family = open_family(assets() / "starter/base", CPU, FP32)
    assert isinstance(family, LatentFamily) and family.part("unet").config.addition_embed_type == "text"
    text = family.encode_text(["zorbi", "a red cat " * 40], 1, 2)
    with torch.no_grad():
        answer = family.predict(torch.randn(2, 4, 8, 8), torch.tensor([1, 900]), text, torch.zeros(2, 6))
    assert answer.shape == (2, 4, 8, 8) and torch.isfinite(answer).all()
