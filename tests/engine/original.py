"""Writes true-class models in the original layout (ldm, sgm, OpenCLIP), walking over their modules one by one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

State = dict[str, Tensor]


def put(state: State, place: str, module: nn.Module) -> None:
    state |= {f"{place}.{name}": tensor for name, tensor in module.state_dict().items()}


def put_unet_resnet(state: State, place: str, resnet: Any) -> None:
    pairs = [("in_layers.0", "norm1"), ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj")]
    pairs += [("out_layers.0", "norm2"), ("out_layers.3", "conv2"), ("skip_connection", "conv_shortcut")]
    for old, new in pairs:
        if getattr(resnet, new) is not None:
            put(state, f"{place}.{old}", getattr(resnet, new))


def unet_state(unet: UNet2DConditionModel) -> State:
    """As ldm and sgm number it: one count through all levels, down and up."""
    state: State = {}
    put(state, "input_blocks.0.0", unet.conv_in)
    put(state, "time_embed.0", unet.time_embedding.linear_1)
    put(state, "time_embed.2", unet.time_embedding.linear_2)
    if getattr(unet, "add_embedding", None) is not None:
        put(state, "label_emb.0.0", unet.add_embedding.linear_1)
        put(state, "label_emb.0.2", unet.add_embedding.linear_2)
    number = 1
    for block in unet.down_blocks:
        for layer, resnet in enumerate(block.resnets):
            put_unet_resnet(state, f"input_blocks.{number}.0", resnet)
            if hasattr(block, "attentions"):
                put(state, f"input_blocks.{number}.1", block.attentions[layer])
            number += 1
        if block.downsamplers:
            put(state, f"input_blocks.{number}.0.op", block.downsamplers[0].conv)
            number += 1
    put_unet_resnet(state, "middle_block.0", unet.mid_block.resnets[0])
    put(state, "middle_block.1", unet.mid_block.attentions[0])
    put_unet_resnet(state, "middle_block.2", unet.mid_block.resnets[1])
    number = 0
    for block in unet.up_blocks:
        for layer, resnet in enumerate(block.resnets):
            sub = 1
            put_unet_resnet(state, f"output_blocks.{number}.0", resnet)
            if hasattr(block, "attentions"):
                put(state, f"output_blocks.{number}.1", block.attentions[layer])
                sub = 2
            if block.upsamplers and layer == len(block.resnets) - 1:
                put(state, f"output_blocks.{number}.{sub}.conv", block.upsamplers[0].conv)
            number += 1
    put(state, "out.0", unet.conv_norm_out)
    put(state, "out.2", unet.conv_out)
    return state


def put_vae_resnet(state: State, place: str, resnet: Any) -> None:
    for old, new in {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}.items():
        put(state, f"{place}.{old}", getattr(resnet, new))
    if resnet.conv_shortcut is not None:
        put(state, f"{place}.nin_shortcut", resnet.conv_shortcut)


def vae_state(vae: AutoencoderKL) -> State:
    """As ldm has it: attention as 1x1 convolutions, the decoder's levels counted from the finest."""
    state: State = {}
    for side, coder, blocks in (
        ("encoder", vae.encoder, vae.encoder.down_blocks),
        ("decoder", vae.decoder, vae.decoder.up_blocks),
    ):
        put(state, f"{side}.conv_in", coder.conv_in)
        put(state, f"{side}.norm_out", coder.conv_norm_out)
        put(state, f"{side}.conv_out", coder.conv_out)
        put_vae_resnet(state, f"{side}.mid.block_1", coder.mid_block.resnets[0])
        put_vae_resnet(state, f"{side}.mid.block_2", coder.mid_block.resnets[1])
        attention = coder.mid_block.attentions[0]
        put(state, f"{side}.mid.attn_1.norm", attention.group_norm)
        linears = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "proj_out": attention.to_out[0]}
        for name, linear in linears.items():
            state[f"{side}.mid.attn_1.{name}.weight"] = linear.weight.detach()[:, :, None, None]
            state[f"{side}.mid.attn_1.{name}.bias"] = linear.bias.detach()
        levels = list(enumerate(blocks)) if side == "encoder" else list(enumerate(reversed(blocks)))
        word = "down" if side == "encoder" else "up"
        for index, block in levels:
            for layer, resnet in enumerate(block.resnets):
                put_vae_resnet(state, f"{side}.{word}.{index}.block.{layer}", resnet)
            samplers = block.downsamplers if side == "encoder" else block.upsamplers
            if samplers:
                put(state, f"{side}.{word}.{index}.{word}sample.conv", samplers[0].conv)
    put(state, "quant_conv", vae.quant_conv)
    put(state, "post_quant_conv", vae.post_quant_conv)
    return state


def clip_state(encoder: CLIPTextModel, level: str = "text_model.") -> State:
    """CLIP-L as transformers 4 spelt it, with its counted positions."""
    state = {level + name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    return state | {f"{level}embeddings.position_ids": torch.arange(encoder.config.max_position_embeddings)[None]}


def open_clip_state(encoder: Any, spare_layers: int = 0) -> State:
    """The text tower of OpenCLIP: query, key and value in one, the projection the other way round."""
    inner = getattr(encoder, "text_model", encoder)
    state: State = {
        "token_embedding.weight": inner.embeddings.token_embedding.weight.detach(),
        "positional_embedding": inner.embeddings.position_embedding.weight.detach(),
        "logit_scale": torch.tensor(4.6),
    }
    put(state, "ln_final", inner.final_layer_norm)
    for index, layer in enumerate([*inner.encoder.layers, *[inner.encoder.layers[0]] * spare_layers]):
        place = f"transformer.resblocks.{index}"
        attention = layer.self_attn
        three = (attention.q_proj, attention.k_proj, attention.v_proj)
        state[f"{place}.attn.in_proj_weight"] = torch.cat([linear.weight.detach() for linear in three])
        state[f"{place}.attn.in_proj_bias"] = torch.cat([linear.bias.detach() for linear in three])
        put(state, f"{place}.attn.out_proj", attention.out_proj)
        put(state, f"{place}.ln_1", layer.layer_norm1)
        put(state, f"{place}.ln_2", layer.layer_norm2)
        put(state, f"{place}.mlp.c_fc", layer.mlp.fc1)
        put(state, f"{place}.mlp.c_proj", layer.mlp.fc2)
    width = inner.config.hidden_size
    projection = (
        encoder.text_projection.weight.detach() if hasattr(encoder, "text_projection") else torch.zeros(width, width)
    )
    return state | {"text_projection": projection.T.contiguous()}


def whole_state(family: str, parts: Mapping[str, Any]) -> State:
    """The keys of a whole base in one file."""
    text = {
        "sd1": lambda: {"cond_stage_model.transformer.": clip_state(parts["text_encoder"])},
        "sd2": lambda: {"cond_stage_model.model.": open_clip_state(parts["text_encoder"], spare_layers=1)},
        "sdxl": lambda: {
            "conditioner.embedders.0.transformer.": clip_state(parts["text_encoder"]),
            "conditioner.embedders.1.model.": open_clip_state(parts["text_encoder_2"]),
        },
    }[family]()
    states = {
        "model.diffusion_model.": unet_state(parts["unet"]),
        "first_stage_model.": vae_state(parts["vae"]),
        **text,
    }
    return {prefix + name: tensor for prefix, state in states.items() for name, tensor in state.items()}


def tiny_parts(family: str, layers: int = 2, vocabulary: int = 49408, seed: int = 0) -> dict[str, Any]:
    """The parts of a base with random weights, small, but of the original code's make (32 groups, 64 a head)."""
    torch.manual_seed(seed)
    linear = family != "sd1"
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": vocabulary, "num_attention_heads": 1}
    signs = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    act = "gelu" if family == "sd2" else "quick_gelu"
    text = CLIPTextConfig(**sizes, **signs, num_hidden_layers=3, hidden_act=act, projection_dim=64)
    added: dict[str, Any] = {}
    parts: dict[str, Any] = {"text_encoder": CLIPTextModel(text)}
    if family == "sdxl":
        second = CLIPTextConfig(**sizes | {"hidden_size": 128, "num_attention_heads": 2}, **signs, num_hidden_layers=2,
                                hidden_act="gelu", projection_dim=96)  # fmt: skip
        parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                 "projection_class_embeddings_input_dim": 144, "transformer_layers_per_block": (1, 1, 2)}  # fmt: skip
    down = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
    if family == "sdxl":
        down.reverse()
    up = [name.replace("Down", "Up") for name in reversed(down)]
    parts["unet"] = UNet2DConditionModel(
        block_out_channels=(32, 64, 128), layers_per_block=layers, cross_attention_dim=192 if family == "sdxl" else 64,
        attention_head_dim=(1, 1, 2) if linear else 8, use_linear_projection=linear, sample_size=16,
        down_block_types=tuple(down), up_block_types=tuple(up), **added,
    )  # fmt: skip
    parts["vae"] = AutoencoderKL(
        block_out_channels=(32, 32, 64), layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    )  # fmt: skip
    return {name: part.requires_grad_(False).eval() for name, part in parts.items()}


def write(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A .safetensors file of these."""
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path, metadata)
    return path
