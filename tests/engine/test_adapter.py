"""The adapter: which layers it takes, what they are called in the file, and what they do to the model."""

from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from lora_studio.core.errors import UserError
from lora_studio.engine.checkpoint import load_lora, save_lora
from lora_studio.engine.config import SampleRequest, TrainJob
from lora_studio.engine.convert import convert
from lora_studio.engine.families.sd import key_name, text_layers, unet_layers
from lora_studio.engine.sampling import sample_images
from lora_studio.engine.train import prepare

# Names that sd-scripts gives to SD 1.5, read off its own classes (see its networks/lora.py)
GOLDEN = {
    "lora_unet_down_blocks_0_attentions_0_proj_in",
    "lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_out_0",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2",
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
    "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
    "lora_te_text_model_encoder_layers_11_mlp_fc2",
}
GOLDEN_CONVOLUTIONS = {
    "lora_unet_down_blocks_1_resnets_0_conv_shortcut",
    "lora_unet_down_blocks_0_downsamplers_0_conv",
    "lora_unet_mid_block_resnets_1_time_emb_proj",
    "lora_unet_up_blocks_2_upsamplers_0_conv",
    "lora_unet_up_blocks_3_resnets_2_conv1",
}


@pytest.fixture(scope="module")
def sd15() -> tuple[torch.nn.Module, torch.nn.Module]:
    """UNet and text encoder of SD 1.5 without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        return unet, CLIPTextModel(text)


@pytest.mark.parametrize(
    ("layers", "unet_count", "text_count"), [("attention", 128, 48), ("attention+ff", 192, 72), ("all", 278, 72)]
)
def test_sd15_has_as_many_modules_as_in_sd_scripts(layers: str, unet_count: int, text_count: int, sd15) -> None:
    unet, text = sd15
    assert len(unet_layers(unet, layers)) == len(set(unet_layers(unet, layers))) == unet_count
    assert len(text_layers(text, layers)) == text_count


def parameters(network: torch.nn.Module, names: list[str], rank: int) -> int:
    """Numbers in the LoRA of these modules: down (rank, in, k, k) and up (out, rank, 1, 1)."""
    modules = dict(network.named_modules())
    return sum(rank * (modules[n].weight[0].numel() + modules[n].weight.shape[0]) for n in names)


def test_sd15_has_as_many_parameters_as_in_sd_scripts(sd15) -> None:
    unet, text = sd15
    text_count = parameters(text, text_layers(text, "attention+ff"), 8)
    assert text_count == 1_327_104
    assert parameters(unet, unet_layers(unet, "attention+ff"), 8) + text_count == 4_718_592
    assert parameters(unet, unet_layers(unet, "all"), 8) + text_count == 9_733_632


def test_sd15_keys_are_the_classic_ones(sd15) -> None:
    unet, text = sd15
    keys = {key_name("unet", name) for name in unet_layers(unet, "attention+ff")}
    keys |= {key_name("text_encoder", name) for name in text_layers(text, "attention+ff")}
    assert keys >= GOLDEN
    assert {key_name("unet", name) for name in unet_layers(unet, "all")} >= GOLDEN_CONVOLUTIONS
    assert key_name("text_encoder", "text_model.encoder.layers.0.mlp.fc1") in keys  # as older transformers name it


# --- the saved file is the trained adapter ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory):
    """A short training on all layers, strong enough to be seen: (trainer, saved file)."""
    from tests.engine.conftest import Recorder, settings
    from tests.tiny import make_dataset

    folder = tmp_path_factory.mktemp("adapter")
    rates = {"optimizer__unet_lr": 0.05, "optimizer__text_encoder_lr": 0.05}
    strong = settings(adapter__layers="all", adapter__alpha=3.0, run__epochs=6, **rates)
    job = TrainJob(
        settings=strong, base=str(base), dataset=str(make_dataset(folder / "data")), cache=str(folder / "cache")
    )
    trainer = prepare(job, Recorder(folder / "run"))
    trainer.run()
    return trainer, folder / "run/checkpoints/lora-000006.safetensors"


def test_the_difference_in_the_file_is_the_trained_one(run) -> None:
    trainer, path = run
    file = load_file(path)
    for name, layer in trainer.adapter.layers.items():
        down, up = file[f"{name}.lora_down.weight"].double(), file[f"{name}.lora_up.weight"].double()
        scale = file[f"{name}.alpha"].item() / down.shape[0]
        by_formula = scale * torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(
            layer.base_layer.weight.shape
        )
        trained = layer.get_delta_weight("lora").double()
        assert trained.abs().max() > 0
        assert torch.allclose(by_formula, trained, rtol=5e-3, atol=2e-3 * trained.abs().max().item())  # half precision


def draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    """One picture (H, W, 3) in 0..255."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    image = pipeline("zorbi, smile", num_inference_steps=4, width=32, height=32, generator=generator).images[0]
    return np.asarray(image, dtype=np.int16)


def test_diffusers_loads_the_file_and_draws_what_the_trained_model_draws(run, base: Path) -> None:
    trainer, path = run
    family = trainer.family
    family.network.eval()
    in_memory = draw(family.pipeline("ddim"))
    fresh = StableDiffusionPipeline.from_pretrained(base)
    fresh.scheduler = family.sampler("ddim")
    without = draw(fresh)
    fresh.load_lora_weights(path.parent, weight_name=path.name)
    loaded = draw(fresh)
    assert np.abs(loaded - in_memory).max() <= 3  # the file is in half precision
    assert np.abs(loaded - without).mean() > 3


@pytest.mark.parametrize("part", ["lora_unet", "lora_te"])
def test_each_part_of_the_file_changes_the_picture(part: str, run, base: Path, tmp_path: Path) -> None:
    _, path = run
    tensors, metadata = load_lora(path)
    half = {name: value for name, value in tensors.items() if name.startswith(part)}
    assert half and len(half) < len(tensors)
    save_lora(tmp_path / "half.safetensors", half, metadata)
    requests = [
        SampleRequest(path="x", prompt="zorbi, smile", lora=lora, width=32, height=32, num_steps=4)
        for lora in (None, str(tmp_path / "half.safetensors"))
    ]
    bare, changed = (np.asarray(image, dtype=np.int16) for image in sample_images(base, requests))
    assert np.abs(bare - changed).max() > 2


@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_a_module_with_another_alpha_keeps_it(alpha: float, run, base: Path, tmp_path: Path) -> None:
    """diffusers' loader by itself forgets such alphas in the text encoder."""
    _, path = run
    tensors, metadata = load_lora(path)
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    equal = dict(tensors)
    equal[f"{name}.lora_up.weight"] = tensors[f"{name}.lora_up.weight"] * (3.0 / alpha)
    equal[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float16)
    save_lora(tmp_path / "equal.safetensors", equal, metadata)
    requests = [
        SampleRequest(path="x", prompt="zorbi", lora=str(lora), width=32, height=32, num_steps=4)
        for lora in (path, tmp_path / "equal.safetensors")
    ]
    one, other = (np.asarray(image, dtype=np.int16) for image in sample_images(base, requests))
    assert np.abs(one - other).max() <= 2


# --- converting -------------------------------------------------------------------------------------------------


def test_back_and_forth_between_layouts_is_exact(run, tmp_path: Path) -> None:
    _, path = run
    convert(path, tmp_path / "d.safetensors", "diffusers")
    convert(tmp_path / "d.safetensors", tmp_path / "k.safetensors", "kohya")
    (before, told), (after, told_after) = load_lora(path), load_lora(tmp_path / "k.safetensors")
    assert set(before) == set(after) and told == told_after
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_the_diffusers_layout_draws_the_same(run, base: Path, tmp_path: Path) -> None:
    _, path = run
    convert(path, tmp_path / "d.safetensors", "diffusers")
    pictures = []
    for file in (path, tmp_path / "d.safetensors"):
        pipeline = StableDiffusionPipeline.from_pretrained(base)
        pipeline.load_lora_weights(file.parent, weight_name=file.name)
        pictures.append(draw(pipeline))
    assert np.array_equal(*pictures)


def test_names_of_the_original_code_are_refused_rather_than_mangled(tmp_path: Path) -> None:
    module = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{module}.lora_down.weight": torch.ones(2, 768), f"{module}.lora_up.weight": torch.ones(320, 2)}
    save_lora(tmp_path / "old.safetensors", tensors, {})
    with pytest.raises(UserError, match="input_blocks"):
        convert(tmp_path / "old.safetensors", tmp_path / "new.safetensors", "diffusers")
    assert not (tmp_path / "new.safetensors").exists()


def test_every_name_of_sd15_converts_back(sd15) -> None:
    from lora_studio.engine.convert import Raw, to_diffusers, to_kohya

    unet, text = sd15
    keys = [key_name("unet", n) for n in unet_layers(unet, "all")] + [
        key_name("text_encoder", n) for n in text_layers(text, "all")
    ]
    tensor = Raw("F16", (1, 1), b"\0\0")
    kohya = {f"{key}.{end}": tensor for key in keys for end in ("lora_down.weight", "lora_up.weight")}
    kohya |= {f"{key}.alpha": Raw.of(index % 7 + 0.5, "F16") for index, key in enumerate(keys)}
    diffusers, metadata = to_diffusers(kohya, {"ss_seed": "1"})
    names = {name.removesuffix(".lora_A.weight") for name in diffusers if name.endswith("lora_A.weight")}
    assert names == {"unet." + n for n in unet_layers(unet, "all")} | {
        "text_encoder.text_model." + n for n in text_layers(text, "all")
    }
    assert to_kohya(diffusers, metadata) == (kohya, {"ss_seed": "1"})
