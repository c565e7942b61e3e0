"""Names of layers in LoRA files, as sd-scripts writes them, to and from the paths of the modules. No torch.

SD keeps diffusers' paths with underscores. SDXL's UNet goes by the names of the original code (sgm): with two layers a
block, block b and layer l are `input_blocks.{1 + 3b + l}` on the way down and `output_blocks.{3b + l}` on the way up.
"""

import re
from collections.abc import Container

TEXT_PREFIXES = {
    "sd": {"text_encoder": "lora_te_"},
    "sdxl": {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}
# Other writers' prefixes that are understood as well: LyCORIS' own wrapper, and SD files that count the text encoder.
OTHER_PREFIXES = {
    "sd": {"lycoris_": "unet", "lora_te1_": "text_encoder"},
    "sdxl": {"lycoris_": "unet"},
}
UNET_PREFIX = "lora_unet_"
TEXT_LEVEL = "text_model."

WORDS = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "time_emb_proj", "conv_shortcut", "conv_in",
    "conv_out", "conv_norm_out", "time_embedding", "add_embedding", "linear_1", "linear_2", "proj_in", "proj_out",
    "to_q", "to_k", "to_v", "to_out", "input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb",
    "in_layers", "out_layers", "emb_layers", "skip_connection", "self_attn", "q_proj", "k_proj", "v_proj",
    "out_proj", "layer_norm1", "layer_norm2", "final_layer_norm", "token_embedding", "position_embedding",
    "text_model", "text_projection",
)  # fmt: skip
"""Names with an underscore of their own; every other underscore in a key stands for a dot."""
_WORD = re.compile(r"(?:" + "|".join(sorted(WORDS, key=len, reverse=True)) + r"|[A-Za-z0-9]+)(?=_|$)")

_UNET_FIRST = (
    "down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "conv_norm_out", "time_embedding.",
    "add_embedding.",
)  # fmt: skip
_TEXT_FIRST = ("encoder.layers.", "embeddings.", "final_layer_norm", "text_projection")

_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_SINGLE_BACK = {sgm: module for module, sgm in _SINGLE.items()}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""Parts of a residual block: diffusers' name and the original one."""
_RESNET_BACK = {sgm: name for name, sgm in RESNET.items()}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_MIDDLE_BACK = {number: name for name, number in _MIDDLE.items()}


def kohya_name(family: str, part: str, module: str) -> str:
    """The name that other programs know a module by in a LoRA file, without its ending.

    `family` is `sd` or `sdxl`, `part` is `unet`, `text_encoder` or `text_encoder_2`. Raises ValueError when the
    module has no such name.
    """
    if part == "unet":
        path = to_sgm(module) if family == "sdxl" else module
        return UNET_PREFIX + path.replace(".", "_")
    inner = module.removeprefix(TEXT_LEVEL)
    level = "" if inner.startswith("text_projection") else TEXT_LEVEL  # transformers keeps it beside the text model
    return TEXT_PREFIXES[family][part] + (level + inner).replace(".", "_")


def module_name(family: str, key: str) -> tuple[str, str]:
    """Part and path of the module that a key names: the inverse of `kohya_name`; diffusers' spelling of SDXL keys and
    the original spelling of SD keys are read too.

    Text paths are spelt as transformers 5 has them: `encoder.layers...` in `text_encoder` (CLIPTextModel),
    `text_model.encoder.layers...` in `text_encoder_2` (CLIPTextModelWithProjection). See `in_network` for others.
    Raises ValueError when no layer goes by that name.
    """
    prefixes = {UNET_PREFIX: "unet", **{prefix: part for part, prefix in TEXT_PREFIXES[family].items()}}
    prefixes |= OTHER_PREFIXES[family]
    prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
    path = None if prefix is None else _dotted(key.removeprefix(prefix))
    if prefix is None or path is None:
        raise ValueError(f"{key} names no layer of this family")
    part = prefixes[prefix]
    module = _unet_path(path) if part == "unet" else _text_path(part, path)
    if module is None:
        raise ValueError(f"{key} names no layer of this family")
    return part, module


def in_network(module: str, names: Container[str]) -> str:
    """The spelling of a text encoder's module that is among `names`: transformers 4 has a level `text_model.` in
    CLIPTextModel that transformers 5 has not. The module itself when neither is there."""
    bare = module.removeprefix(TEXT_LEVEL)
    return next((name for name in (module, bare, TEXT_LEVEL + bare) if name in names), module)


def _dotted(name: str) -> str | None:
    """`down_blocks_0_attentions_0_proj_in` -> `down_blocks.0.attentions.0.proj_in`; None when letters are left over."""
    words = _WORD.findall(name)
    return ".".join(words) if "_".join(words) == name else None


def _unet_path(path: str) -> str | None:
    if path.startswith(("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")):
        return from_sgm(path)
    return path if path.startswith(_UNET_FIRST) else None


def _text_path(part: str, path: str) -> str | None:
    inner = path.removeprefix(TEXT_LEVEL)
    if not inner.startswith(_TEXT_FIRST):
        return None
    if inner.startswith("text_projection") or part == "text_encoder":
        return inner
    return TEXT_LEVEL + inner


def to_sgm(module: str) -> str:
    """diffusers' path of a UNet module -> the original code's, at two layers a block (SD 1.x, 2.x, SDXL).

    `down_blocks.1.attentions.0.proj_in` -> `input_blocks.4.1.proj_in`. Raises ValueError when there is none.
    """
    if module in _SINGLE:
        return _SINGLE[module]
    match = re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)", module)
    if match and match[1] in _MIDDLE:
        return f"middle_block.{_MIDDLE[match[1]]}.{_inside(match[1], match[2])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.([012])\.(.+)", module)
    if match:
        side, block, kind, layer, rest = match.groups()
        sub = 0 if kind == "resnets" else 1
        if side == "up":
            return f"output_blocks.{3 * int(block) + int(layer)}.{sub}.{_inside(kind, rest)}"
        if layer != "2":  # the third place of a block on the way down is its downsampler
            return f"input_blocks.{1 + 3 * int(block) + int(layer)}.{sub}.{_inside(kind, rest)}"
    match = re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", module)
    if match:
        return f"input_blocks.{3 * int(match[1]) + 3}.0.op"
    match = re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", module)
    if match:
        return f"output_blocks.{3 * int(match[1]) + 2}.2.conv"
    raise ValueError(f"{module} has no name in the original code")


def _inside(kind: str, rest: str) -> str:
    if not kind.startswith("resnets"):
        return rest
    if rest not in RESNET:
        raise ValueError(f"a residual block has no part {rest}")
    return RESNET[rest]


def from_sgm(path: str) -> str | None:
    """The inverse of `to_sgm`; None when it is no module of a UNet with two layers a block."""
    if path in _SINGLE_BACK:
        return _SINGLE_BACK[path]
    match = re.fullmatch(r"middle_block\.([012])\.(.+)", path)
    if match:
        return _outside(f"mid_block.{_MIDDLE_BACK[match[1]]}", match[2])
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.([012])\.(.+)", path)
    if match is None:
        return None
    side, number, sub, rest = match[1], int(match[2]), int(match[3]), match[4]
    if side == "input":
        block, layer = divmod(number - 1, 3)
        if number == 0:
            return None
        if layer == 2:
            return f"down_blocks.{block}.downsamplers.0.conv" if (sub, rest) == (0, "op") else None
        return None if sub == 2 else _outside(f"down_blocks.{block}.{('resnets', 'attentions')[sub]}.{layer}", rest)
    block, layer = divmod(number, 3)
    if rest == "conv" and sub:  # behind an attention at 2; at 1 where the block has none
        return f"up_blocks.{block}.upsamplers.0.conv" if layer == 2 else None
    return None if sub == 2 else _outside(f"up_blocks.{block}.{('resnets', 'attentions')[sub]}.{layer}", rest)


def _outside(place: str, rest: str) -> str | None:
    if ".attentions." in place:
        return None if rest in _RESNET_BACK else f"{place}.{rest}"
    return f"{place}.{_RESNET_BACK[rest]}" if rest in _RESNET_BACK else None
