"""The adapter on the real bases' layers: how many, what they are called in the file, and what diffusers makes of it."""

from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lora_studio.engine.adapters import Adapter
from lora_studio.engine.checkpoint import load_lora, save_lora
from lora_studio.engine.config import AdapterConfig, SampleRequest
from lora_studio.engine.convert import convert
from lora_studio.engine.families import open_family
from lora_studio.engine.families.layers import text_layers, unet_layers
from lora_studio.engine.keys import kohya_name
from lora_studio.engine.sampling import sample_images
from tests.engine.test_adapter_kinds import stir

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
    return without_weights()


def without_weights() -> tuple[torch.nn.Module, torch.nn.Module]:
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
    keys = {kohya_name("sd", "unet", name) for name in unet_layers(unet, "attention+ff")}
    keys |= {kohya_name("sd", "text_encoder", name) for name in text_layers(text, "attention+ff")}
    assert keys >= GOLDEN
    assert {kohya_name("sd", "unet", name) for name in unet_layers(unet, "all")} >= GOLDEN_CONVOLUTIONS
    assert (
        kohya_name("sd", "text_encoder", "text_model.encoder.layers.0.mlp.fc1") in keys
    )  # as older transformers name it


class Meta:
    """The layers of SD 1.5 without weights, as a family."""

    def __init__(self, networks: tuple[torch.nn.Module, torch.nn.Module]) -> None:
        self.parts = dict(zip(("unet", "text_encoder"), networks, strict=True))

    def part(self, name: str) -> torch.nn.Module:
        return self.parts[name]

    def adapter_layers(self, layers: str, parts: list[str]) -> dict[str, list[str]]:
        return {part: (unet_layers if part == "unet" else text_layers)(self.part(part), layers) for part in parts}

    def key_name(self, part: str, module: str) -> str:
        return kohya_name("sd", part, module)


@pytest.mark.parametrize(("layers", "count", "size"), [("attention+ff", 264, 4_718_592), ("all", 350, 9_733_632)])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_adapter_of_sd15_is_as_large_as_in_sd_scripts(kind: str, layers: str, count: int, size: int) -> None:
    family = Meta(without_weights())
    adapter = Adapter(family, AdapterConfig(kind=kind, rank=8, layers=layers), ["unet", "text_encoder"], 0)
    assert len(adapter.layers) == count
    keys = [key for key, _ in adapter.named_parameters()]
    assert len(keys) == len(set(keys)) == count * (3 if kind == "dora" else 2)
    assert sum(p.numel() for key, p in adapter.named_parameters() if not key.endswith("dora_scale")) == size


# --- the saved file is the trained adapter ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=["lora", "dora"])
def run(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory):
    """An adapter on all layers as after a training, strong enough to be seen: (family, adapter, saved file)."""
    family = open_family(base, torch.device("cpu"), torch.float32)
    config = AdapterConfig(kind=request.param, layers="all", rank=2, alpha=3.0)
    adapter = stir(Adapter(family, config, ["unet", "text_encoder"], 0), 0.1)
    path = tmp_path_factory.mktemp("adapter") / "lora.safetensors"
    save_lora(path, adapter.tensors(torch.float16), family.metadata())
    return family, adapter, path


def draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    """One picture (H, W, 3) in 0..255."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    image = pipeline("zorbi, smile", num_inference_steps=4, width=32, height=32, generator=generator).images[0]
    return np.asarray(image, dtype=np.int16)


@torch.no_grad()
def test_diffusers_loads_the_file_and_draws_what_the_trained_model_draws(run, base: Path) -> None:
    family, _, path = run
    in_memory = draw(family.pipeline("ddim"))
    fresh = StableDiffusionPipeline.from_pretrained(base)
    fresh.scheduler = family.sampler("ddim")
    without = draw(fresh)
    if any(key.endswith("dora_scale") for key in load_lora(path)[0]):  # diffusers drops it in kohya's layout
        path = path.with_name("diffusers.safetensors")
        convert(run[2], path, "diffusers")
    fresh.load_lora_weights(path.parent, weight_name=path.name)
    loaded = draw(fresh)
    assert np.abs(loaded - in_memory).max() <= 3  # the file is in half precision
    assert np.abs(loaded - without).mean() > 3


@pytest.mark.parametrize("part", ["lora_unet", "lora_te"])
def test_each_part_of_the_file_changes_the_picture(part: str, run, base: Path, tmp_path: Path) -> None:
    _, _, path = run
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
    _, _, path = run
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
