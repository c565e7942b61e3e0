"""The original (ldm, sgm) layout of Stable Diffusion files, read from names and shapes. No torch, no weight is read.

Every part's configuration is inferred from its shapes over what the published bases share, and every parameter of the
diffusers or transformers class is given the key, and the piece of its tensor, that it comes from.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_studio.engine.keys import RESNET

Shapes = Mapping[str, tuple[int, ...]]
UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
HEAD_WIDTH = 64  # of all text encoders, and of the networks with linear projections (SD 2.x, SDXL)
SD1_HEADS = 8
POOLED_NUMBERS = 6  # SDXL is told of the original size, the cut and the target size: two numbers each
FAMILY_BY_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
SCALING = {"sdxl": 0.13025}  # of latents, as published
SD_SCALING = 0.18215


class LayoutError(ValueError):
    """The names or shapes do not make up a model that is known here; the text says which and why."""


@dataclass(frozen=True)
class Source:
    """Where a parameter comes from."""

    key: str
    """In the file, without the part's prefix."""
    third: int | None = None
    """Which third of the rows: query, key and value lie in one tensor in OpenCLIP."""
    transpose: bool = False


@dataclass(frozen=True)
class Part:
    """One network of a file."""

    name: str
    prefix: str
    """What its keys begin with."""
    config: dict[str, Any]
    """Arguments of its class."""
    source: Callable[[str], Source]
    """Parameter of the class (text encoders: without the level `text_model.`) -> where it comes from."""
    ignored: re.Pattern[str]
    """Keys (without the prefix) that are no weights of the class and may be there."""
    shapes: Shapes
    """Of the part's keys, without the prefix."""


@dataclass(frozen=True)
class Layout:
    """What a file in the original layout holds."""

    family: str
    """sd1, sd2, sd-small, sdxl; empty for a VAE alone."""
    parts: dict[str, Part]


def family_by_width(width: int) -> str:
    """Family by the width of the text states that the cross-attention reads."""
    return FAMILY_BY_WIDTH.get(width, "sd-small" if width < 768 else "unknown")


def read_layout(shapes: Shapes) -> Layout:
    """The parts of a base in one file. Raises LayoutError naming what is missing or odd."""
    unet = _strip(shapes, UNET_PREFIX)
    text = _text_parts(shapes)
    pooled = text["text_encoder_2"].config["projection_dim"] if "text_encoder_2" in text else 0
    if not unet:
        raise LayoutError(f"it has no UNet ({UNET_PREFIX}...)")
    config, places = unet_config(unet, pooled)
    family = "sdxl" if pooled else family_by_width(config["cross_attention_dim"])
    if "text_encoder" in text and text["text_encoder"].prefix in OPEN_CLIP_PREFIXES:
        family = "sd2"
    parts = {"unet": Part("unet", UNET_PREFIX, config, lambda name: _unet_source(name, places), _NOTHING, unet), **text}
    vae = _strip(shapes, VAE_PREFIX)
    if vae:
        parts["vae"] = vae_part(vae, VAE_PREFIX, SCALING.get(family, SD_SCALING))
    names = {"text_encoder": "text encoder", "vae": "VAE"}
    missing = [words for name, words in names.items() if name not in parts]
    if missing:
        raise LayoutError(f"the file lacks the {' and the '.join(missing)}")
    return Layout(family, parts)


def read_vae(shapes: Shapes, scaling: float = SD_SCALING) -> Layout:
    """A VAE alone, with or without the prefix that it has in whole models. Raises LayoutError."""
    prefix = VAE_PREFIX if any(key.startswith(VAE_PREFIX) for key in shapes) else ""
    return Layout("", {"vae": vae_part(_strip(shapes, prefix), prefix, scaling)})


_NOTHING = re.compile(r"(?!)")


def _strip(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _shape(shapes: Shapes, key: str, *lengths: int) -> tuple[int, ...]:
    """The shape of a key that must be there, with one of these numbers of sides."""
    if key not in shapes:
        raise LayoutError(f"it lacks {key}")
    if len(shapes[key]) not in lengths or not all(shapes[key]):
        raise LayoutError(f"its {key} has the odd shape {shapes[key]}")
    return shapes[key]


# --- UNet -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """The layers of one size on the way down."""

    channels: int
    depth: int
    """Transformer blocks behind each residual block; 0 for none."""
    layers: int


def unet_config(shapes: Shapes, pooled: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Arguments of UNet2DConditionModel, and its modules' places in the file, e.g.
    `down_blocks.1.attentions.0` -> `input_blocks.4.1`. `pooled` is the width of SDXL's pooled text, 0 without."""
    depths = _depths(shapes)
    first = _shape(shapes, "input_blocks.0.0.weight", 4)
    levels, places = _way_down(shapes, depths)
    places |= _middle_and_up(shapes, depths, levels)
    attention = next((place for place in places.values() if place in depths), None)
    if attention is None:
        raise LayoutError("its UNet has no attention")
    is_linear = len(_shape(shapes, f"{attention}.proj_in.weight", 2, 4)) == 2
    width = _shape(shapes, f"{attention}.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    channels = tuple(level.channels for level in levels)
    middle = depths.get("middle_block.1", 0)
    down = ["CrossAttnDownBlock2D" if level.depth else "DownBlock2D" for level in levels]
    up = ["CrossAttnUpBlock2D" if level.depth else "UpBlock2D" for level in reversed(levels)]
    config: dict[str, Any] = {
        "sample_size": {768: 64, 1024: 96}.get(width, 128 if pooled else 64),
        "in_channels": first[1],
        "out_channels": _shape(shapes, "out.2.weight", 4)[0],
        "block_out_channels": channels,
        "layers_per_block": levels[0].layers,
        "cross_attention_dim": width,
        "attention_head_dim": tuple(max(side // HEAD_WIDTH, 1) for side in channels) if is_linear else SD1_HEADS,
        "use_linear_projection": is_linear,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        # the middle takes the last level's depth, whether that level has any attention or not
        "transformer_layers_per_block": (*(level.depth or 1 for level in levels[:-1]), levels[-1].depth or middle),
    }
    return config | _added_numbers(shapes, pooled), places


def _added_numbers(shapes: Shapes, pooled: int) -> dict[str, Any]:
    """SDXL's second input: the pooled text and the sizes."""
    if "label_emb.0.0.weight" not in shapes:
        if pooled:
            raise LayoutError("it lacks label_emb.0.0.weight")
        return {}
    width = _shape(shapes, "label_emb.0.0.weight", 2)[1]
    if not pooled:
        raise LayoutError("its network reads further inputs (label_emb) that only SDXL is known for here")
    numbers, rest = divmod(width - pooled, POOLED_NUMBERS)
    if rest or numbers <= 0:
        raise LayoutError(f"its label_emb.0.0.weight has the odd width {width}")
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": numbers,
        "projection_class_embeddings_input_dim": width,
    }


def _depths(shapes: Shapes) -> dict[str, int]:
    """Places with attention -> number of transformer blocks."""
    found: dict[str, int] = {}
    for key in shapes:
        match = re.match(
            r"((?:input_blocks|output_blocks)\.\d{1,3}\.1|middle_block\.1)\.transformer_blocks\.(\d{1,3})\.", key
        )
        if match:
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found


def _way_down(shapes: Shapes, depths: Mapping[str, int]) -> tuple[list[Level], dict[str, str]]:
    places: dict[str, str] = {}
    rows: list[list[tuple[int, int]]] = [[]]  # per level, per layer: channels and depth
    index = 1
    while True:
        place, block, layer = f"input_blocks.{index}", len(rows) - 1, len(rows[-1])
        if f"{place}.0.op.weight" in shapes:
            places[f"down_blocks.{block}.downsamplers.0.conv"] = f"{place}.0.op"
            rows.append([])
        elif f"{place}.0.in_layers.2.weight" in shapes:
            rows[-1].append((_shape(shapes, f"{place}.0.in_layers.2.weight", 4)[0], depths.get(f"{place}.1", 0)))
            places[f"down_blocks.{block}.resnets.{layer}"] = f"{place}.0"
            if f"{place}.1" in depths:
                places[f"down_blocks.{block}.attentions.{layer}"] = f"{place}.1"
        else:
            break
        index += 1
    if any(not row or len(set(row)) > 1 or len(row) != len(rows[0]) for row in rows):
        raise LayoutError("its blocks are uneven (a shrunken model, as SSD-1B), which is not supported")
    return [Level(row[0][0], row[0][1], len(row)) for row in rows], places


def _middle_and_up(shapes: Shapes, depths: Mapping[str, int], levels: list[Level]) -> dict[str, str]:
    places = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    middle = depths.get("middle_block.1", 0)
    if not middle or levels[-1].depth not in (0, middle):
        raise LayoutError("its middle block is uneven (a shrunken model, as SSD-1B), which is not supported")
    for block, level in enumerate(reversed(levels)):
        for layer in range(level.layers + 1):
            place = f"output_blocks.{block * (level.layers + 1) + layer}"
            if depths.get(f"{place}.1", 0) != level.depth:
                raise LayoutError(f"its {place} is uneven (a shrunken model, as SSD-1B), which is not supported")
            places[f"up_blocks.{block}.resnets.{layer}"] = f"{place}.0"
            if level.depth:
                places[f"up_blocks.{block}.attentions.{layer}"] = f"{place}.1"
        if block < len(levels) - 1:
            places[f"up_blocks.{block}.upsamplers.0.conv"] = f"{place}.{2 if level.depth else 1}.conv"
    return places


_UNET_SINGLE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def _unet_source(name: str, places: Mapping[str, str]) -> Source:
    module, _, end = name.rpartition(".")
    whole = _UNET_SINGLE | dict(places)
    if module in whole:
        return Source(f"{whole[module]}.{end}")
    for length in (4, 3):  # down_blocks.0.resnets.0 and mid_block.resnets.0
        pieces = module.split(".")
        place, rest = ".".join(pieces[:length]), ".".join(pieces[length:])
        if place in places:
            return Source(f"{places[place]}.{RESNET[rest] if '.resnets.' in f'.{place}.' else rest}.{end}")
    raise LayoutError(f"it has no place for {name}")


# --- VAE --------------------------------------------------------------------------------------------------------


def vae_part(shapes: Shapes, prefix: str, scaling: float) -> Part:
    """The VAE from its shapes; diffusers' own layout is read too."""
    if any(".down_blocks." in key for key in shapes):
        config = _vae_config(
            shapes, scaling, "encoder.down_blocks.{0}.resnets.{1}.conv1.weight", "mid_block.attentions.0"
        )
        return Part("vae", prefix, config, Source, _VAE_IGNORED, shapes)
    config = _vae_config(shapes, scaling, "encoder.down.{0}.block.{1}.conv1.weight", "mid.attn_1")
    levels = len(config["block_out_channels"])
    return Part("vae", prefix, config, lambda name: _vae_source(name, levels), _VAE_IGNORED, shapes)


_VAE_IGNORED = re.compile(r"loss\.|model_ema\.")


def _vae_config(shapes: Shapes, scaling: float, block: str, attention: str) -> dict[str, Any]:
    channels = []
    while block.format(len(channels), 0) in shapes:
        channels.append(_shape(shapes, block.format(len(channels), 0), 4)[0])
    if not channels:
        raise LayoutError(f"it lacks {block.format(0, 0)}")
    layers = 0
    while block.format(0, layers) in shapes:
        layers += 1
    return {
        "in_channels": _shape(shapes, "encoder.conv_in.weight", 4)[1],
        "out_channels": _shape(shapes, "decoder.conv_out.weight", 4)[0],
        "latent_channels": _shape(shapes, "decoder.conv_in.weight", 4)[1],
        "block_out_channels": tuple(channels),
        "layers_per_block": layers,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "mid_block_add_attention": any(f"encoder.{attention}." in key for key in shapes),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "sample_size": 512 if scaling == SD_SCALING else 1024,
        "scaling_factor": scaling,
        "force_upcast": True,
    }


_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _vae_source(name: str, levels: int) -> Source:
    name = name.replace(".conv_norm_out.", ".norm_out.").replace(".conv_shortcut.", ".nin_shortcut.")
    name = re.sub(r"\.mid_block\.resnets\.(\d)", lambda m: f".mid.block_{int(m[1]) + 1}", name)
    match = re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name)
    if match:
        return Source(f"{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}")
    name = re.sub(r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block.", name)
    name = re.sub(r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample.", name)
    # the decoder's levels are counted from the finest in the file, from the coarsest in the class
    name = re.sub(r"\.up_blocks\.(\d+)\.resnets\.", lambda m: f".up.{levels - 1 - int(m[1])}.block.", name)
    return Source(
        re.sub(r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f".up.{levels - 1 - int(m[1])}.upsample.", name)
    )


# --- Text encoders ----------------------------------------------------------------------------------------------

CLIP_PREFIXES = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP_PREFIXES = {"cond_stage_model.model.": "text_encoder", "conditioner.embedders.1.model.": "text_encoder_2"}
_TEXT_IGNORED = re.compile(
    r"(?:text_model\.)?embeddings\.position_ids$|logit_scale$|text_projection(?:\.weight)?$|attn_mask$"
)


def _text_parts(shapes: Shapes) -> dict[str, Part]:
    found = {}
    for prefix in CLIP_PREFIXES:
        inner = _strip(shapes, prefix)
        if inner:
            found["text_encoder"] = _clip_part(inner, prefix)
    for prefix, name in OPEN_CLIP_PREFIXES.items():
        inner = _strip(shapes, prefix)
        if inner:
            found[name] = _open_clip_part(inner, prefix, name)
    return found


def _clip_part(shapes: Shapes, prefix: str) -> Part:
    """CLIP-L as transformers spells it; old files lack the level `text_model.`."""
    level = "text_model." if any(key.startswith("text_model.") for key in shapes) else ""
    layers = _count(shapes, rf"{re.escape(level)}encoder\.layers\.(\d{{1,3}})\.")
    config = _clip_config(
        _shape(shapes, f"{level}embeddings.token_embedding.weight", 2),
        _shape(shapes, f"{level}embeddings.position_embedding.weight", 2)[0],
        _shape(shapes, f"{level}encoder.layers.0.mlp.fc1.weight", 2)[0],
        layers,
    )
    config |= {"projection_dim": config["hidden_size"], "hidden_act": "quick_gelu"}
    return Part("text_encoder", prefix, config, lambda name: Source(level + name), _TEXT_IGNORED, shapes)


def _open_clip_part(shapes: Shapes, prefix: str, name: str) -> Part:
    """OpenCLIP's H (SD 2.x, read one layer before its last, so that layer is left out) and G (SDXL)."""
    layers = _count(shapes, r"transformer\.resblocks\.(\d{1,3})\.")
    ignored = _TEXT_IGNORED
    if name == "text_encoder":
        layers -= 1
        ignored = re.compile(rf"{_TEXT_IGNORED.pattern}|transformer\.resblocks\.{layers}\.")
    if layers < 1:
        raise LayoutError("it lacks transformer.resblocks.0.ln_1.weight")
    config = _clip_config(
        _shape(shapes, "token_embedding.weight", 2),
        _shape(shapes, "positional_embedding", 2)[0],
        _shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        layers,
    )
    transposed = "text_projection" in shapes  # some writers have a linear layer's weight in its place
    if name == "text_encoder_2":
        shape = _shape(shapes, "text_projection" if transposed else "text_projection.weight", 2)
        config["projection_dim"] = shape[1] if transposed else shape[0]
        ignored = re.compile(r"logit_scale$|attn_mask$")
    config["hidden_act"] = "gelu"
    return Part(name, prefix, config, lambda name: _open_clip_source(name, transposed), ignored, shapes)


def _count(shapes: Shapes, pattern: str) -> int:
    return max((int(match[1]) + 1 for match in map(re.compile(pattern).match, shapes) if match), default=0)


def _clip_config(tokens: tuple[int, ...], positions: int, inner: int, layers: int) -> dict[str, Any]:
    """CLIP's vocabulary ends with its two signs, start and end of text; padding is done with the end."""
    return {
        "vocab_size": tokens[0],
        "hidden_size": tokens[1],
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(tokens[1] // HEAD_WIDTH, 1),
        "max_position_embeddings": positions,
        "bos_token_id": tokens[0] - 2,
        "eos_token_id": tokens[0] - 1,
        "pad_token_id": tokens[0] - 1,
    }


_OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
_OPEN_CLIP_SINGLE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def _open_clip_source(name: str, transposed: bool) -> Source:
    if name == "text_projection.weight":
        return Source("text_projection", transpose=True) if transposed else Source(name)
    if name in _OPEN_CLIP_SINGLE:
        return Source(_OPEN_CLIP_SINGLE[name])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        raise LayoutError(f"it has no place for {name}")
    layer, module, end = match.groups()
    place = f"transformer.resblocks.{layer}"
    if module in _OPEN_CLIP:
        return Source(f"{place}.{_OPEN_CLIP[module]}.{end}")
    third = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].index(module)
    return Source(f"{place}.attn.in_proj_{end}", third=third)
