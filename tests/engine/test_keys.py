"""Names of layers in LoRA files, on the real Stable Diffusion 1.5 and SDXL at full size."""

import subprocess
import sys

import pytest
from torch import nn

from lora_studio.engine.keys import from_sgm, in_network, kohya_name, module_name, to_sgm
from tests.engine.published import part

LAYERS = {
    "Attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "FeedForward": ("net.0.proj", "net.2"),
    "Transformer2DModel": ("proj_in", "proj_out"),
    "CLIPAttention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "CLIPMLP": ("fc1", "fc2"),
}
CONVOLUTIONS = {
    "ResnetBlock2D": ("conv1", "conv2", "time_emb_proj", "conv_shortcut"),
    "Downsample2D": ("conv",),
    "Upsample2D": ("conv",),
}
COUNTS = {
    ("sd1", "text_encoder"): (72, 72),
    ("sd1", "unet"): (192, 278),
    ("sdxl", "text_encoder"): (72, 72),
    ("sdxl", "text_encoder_2"): (192, 192),
    ("sdxl", "unet"): (722, 788),
}
FAMILY = {"sd1": "sd", "sd2": "sd", "sdxl": "sdxl"}


def adapted(network: nn.Module, kinds: dict[str, tuple[str, ...]]) -> list[str]:
    """Modules that sd-scripts adapts."""
    return [
        f"{name}.{inner}"
        for name, module in network.named_modules()
        for inner in kinds.get(type(module).__name__, ())
        if inner in dict(module.named_modules())
    ]


@pytest.mark.parametrize(("base", "name"), COUNTS)
def test_the_counts_are_those_of_sd_scripts(base: str, name: str) -> None:
    network, (usual, with_convolutions) = part(base, name), COUNTS[base, name]
    for kinds, count in ((LAYERS, usual), (LAYERS | CONVOLUTIONS, with_convolutions)):
        keys = {kohya_name(FAMILY[base], name, module) for module in adapted(network, kinds)}
        assert len(keys) == count


def test_whole_bases_have_264_350_986_and_1052_layers() -> None:
    total = {"sd1": [0, 0], "sdxl": [0, 0]}
    for (base, _), counts in COUNTS.items():
        total[base] = [a + b for a, b in zip(total[base], counts, strict=True)]
    assert total == {"sd1": [264, 350], "sdxl": [986, 1052]}


@pytest.mark.parametrize(
    ("base", "name"), [*COUNTS, ("sd2", "unet"), ("sd2", "text_encoder")], ids=lambda value: str(value)
)
def test_every_module_with_weights_goes_there_and_back(base: str, name: str) -> None:
    network = part(base, name)
    modules = [path for path, module in network.named_modules() if list(module.parameters(recurse=False))]
    keys = {kohya_name(FAMILY[base], name, module): module for module in modules}
    assert len(keys) == len(modules)
    for key, module in keys.items():
        found, path = module_name(FAMILY[base], key)
        assert (found, in_network(path, modules)) == (name, module)
        assert kohya_name(FAMILY[base], name, path) == key


@pytest.mark.parametrize(
    ("module", "key"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0",
         "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0"),
        ("down_blocks.2.attentions.1.proj_in", "lora_unet_input_blocks_8_1_proj_in"),
        ("mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
         "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj"),
        ("mid_block.resnets.1.conv1", "lora_unet_middle_block_2_in_layers_2"),
        ("up_blocks.1.attentions.2.proj_out", "lora_unet_output_blocks_5_1_proj_out"),
        ("up_blocks.2.resnets.0.conv_shortcut", "lora_unet_output_blocks_6_0_skip_connection"),
        ("down_blocks.0.resnets.1.time_emb_proj", "lora_unet_input_blocks_2_0_emb_layers_1"),
        ("down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
        ("down_blocks.1.downsamplers.0.conv", "lora_unet_input_blocks_6_0_op"),
        ("up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv"),
        ("up_blocks.1.upsamplers.0.conv", "lora_unet_output_blocks_5_2_conv"),
        ("conv_in", "lora_unet_input_blocks_0_0"),
        ("conv_out", "lora_unet_out_2"),
        ("time_embedding.linear_1", "lora_unet_time_embed_0"),
        ("add_embedding.linear_2", "lora_unet_label_emb_0_2"),
    ],
)  # fmt: skip
def test_sdxl_goes_by_the_names_of_the_original_code(module: str, key: str) -> None:
    assert kohya_name("sdxl", "unet", module) == key
    assert module_name("sdxl", key) == ("unet", module)
    spelt = "lora_unet_" + module.replace(".", "_")
    assert module_name("sdxl", spelt) == ("unet", module), "diffusers' spelling is read as well"
    assert kohya_name("sd", "unet", module) == spelt


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_text_encoder_has_one_name_in_both_spellings_of_transformers(family: str) -> None:
    old, new = "text_model.encoder.layers.3.self_attn.out_proj", "encoder.layers.3.self_attn.out_proj"
    names = {kohya_name(family, "text_encoder", module) for module in (old, new)}
    prefix = {"sd": "lora_te_", "sdxl": "lora_te1_"}[family]
    assert names == {prefix + "text_model_encoder_layers_3_self_attn_out_proj"}
    assert module_name(family, names.pop()) == ("text_encoder", new)
    assert in_network(new, {old}) == old and in_network(old, {new}) == new


def test_sd_files_in_the_original_spelling_are_read() -> None:
    key = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    assert module_name("sd", key) == ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    # The first block on the way up has no attention in SD 1.x, so its upsampler stands one place earlier.
    assert from_sgm("output_blocks.2.1.conv") == "up_blocks.0.upsamplers.0.conv"
    assert from_sgm("output_blocks.5.2.conv") == "up_blocks.1.upsamplers.0.conv"


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_", "lora_te3_encoder_block_0", "unet.down_blocks.0", "",
        "lora_unet_input_blocks_0_1_proj_in", "lora_unet_input_blocks_3_1_proj_in", "lora_unet_middle_block_3_proj_in",
        "lora_unet_input_blocks_4_0_proj_in", "lora_unet_down_blocks__0", "lora_te1_visual_proj",
    ],
)  # fmt: skip
def test_a_name_that_is_no_layer_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        module_name("sdxl", key)


def test_what_the_original_code_has_no_name_for_is_refused() -> None:
    for module in ("down_blocks.0.resnets.2.conv1", "down_blocks.0.resnets.0.conv9", "class_embedding.linear_1"):
        with pytest.raises(ValueError):
            to_sgm(module)


def test_no_torch_is_imported() -> None:
    code = "import sys, lora_studio.engine.keys, lora_studio.engine.detect, lora_studio.engine.convert\n"
    code += "print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
