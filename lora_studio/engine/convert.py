"""LoRA files between kohya's and diffusers' layout, byte for byte: only names change, so back and forth is exact.

No torch: the page's process may call it. Works on raw tensors, so every number format passes through unharmed.
"""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_studio.core.errors import UserError
from lora_studio.core.files import atomic_path
from lora_studio.engine.detect import detect, read_header

# diffusers' own file has no alpha tensors: what peft needs stands in this entry, as save_lora_weights writes it
ADAPTER_ENTRY = "lora_adapter_metadata"
PARTS = {"lora_unet_": "unet.", "lora_te_text_model_": "text_encoder.text_model."}
OTHER_NAMES = ("lora_unet_input_blocks", "lora_unet_middle_block", "lora_unet_output_blocks")  # of the original code
WORDS = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "time_emb_proj", "conv_shortcut", "proj_in",
    "proj_out", "to_q", "to_k", "to_v", "to_out", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj",
)  # fmt: skip
_WORD = re.compile("|".join(sorted(WORDS, key=len, reverse=True)) + "|[A-Za-z0-9]+")


@dataclass(frozen=True)
class Raw:
    """A tensor as it lies in the file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def scalar(self) -> float:
        """The value of a tensor with one element."""
        if self.dtype == "BF16":
            return struct.unpack("<f", b"\0\0" + self.data)[0]
        return struct.unpack({"F16": "<e", "F32": "<f", "F64": "<d"}[self.dtype], self.data)[0]

    @staticmethod
    def of(value: float, dtype: str) -> "Raw":
        """A scalar tensor."""
        if dtype == "BF16":
            return Raw(dtype, (), struct.pack("<f", value)[2:])
        code = {"F16": "<e", "F64": "<d"}.get(dtype, "<f")
        return Raw(dtype if dtype in ("F16", "F64") else "F32", (), struct.pack(code, value))


Tensors = Mapping[str, Raw]


def convert(source: Path, target: Path, format: Literal["kohya", "diffusers"]) -> None:
    """Write the LoRA in `source` to `target` in the layout named; metadata stays. A file in that layout is copied.

    Raises UserError when `source` is no LoRA that can be used, or `target` cannot be written.
    """
    found = detect(source)
    if found.kind != "lora" or found.problem:
        reason = found.problem or f"it is a {found.detail or found.kind}"
        raise UserError(f"{source.name} cannot be converted: {reason}.", "Choose a LoRA file.")
    tensors, metadata = read_raw(source)
    if format == "diffusers" and is_kohya(tensors):
        tensors, metadata = to_diffusers(tensors, metadata)
    elif format == "kohya" and not is_kohya(tensors):
        tensors, metadata = to_kohya(tensors, metadata)
    with atomic_path(target) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata))
        if read_raw(temporary) != (tensors, metadata):
            raise UserError(f"{target.name} cannot be read back as it was written.", "Check the disk and try again.")


def is_kohya(tensors: Mapping[str, object]) -> bool:
    """Whether the names are kohya's."""
    return any(name.startswith(("lora_unet_", "lora_te")) for name in tensors)


def read_raw(path: Path) -> tuple[dict[str, Raw], dict[str, str]]:
    """Tensors as bytes, and the metadata."""
    _, metadata = read_header(path)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {
        name: Raw(
            entry["dtype"],
            tuple(entry["shape"]),
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }
    return tensors, metadata


def to_bytes(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """The bytes of a .safetensors file, tensors in order of name."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, raw in sorted(tensors.items()):
        header[name] = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [place, place + len(raw.data)]}
        place += len(raw.data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return b"".join([len(text).to_bytes(8, "little"), text, *(raw.data for _, raw in sorted(tensors.items()))])


def to_diffusers(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[dict[str, Raw], dict[str, str]]:
    """kohya -> diffusers (peft) names; ranks and alphas go into the metadata, by part."""
    converted: dict[str, Raw] = {}
    patterns: dict[str, dict[str, tuple[int, float]]] = {}
    for name, down in tensors.items():
        if not name.endswith(".lora_down.weight"):
            continue
        module = name.removesuffix(".lora_down.weight")
        prefix = next((prefix for prefix in PARTS if module.startswith(prefix)), None)
        if prefix is None or module.startswith(OTHER_NAMES):
            raise UserError(f"{module} is no layer of a Stable Diffusion 1.x LoRA.", "Export it in kohya's layout.")
        path = PARTS[prefix] + module_path(module.removeprefix(prefix))
        converted[f"{path}.lora_A.weight"] = down
        converted[f"{path}.lora_B.weight"] = tensors[f"{module}.lora_up.weight"]
        alpha = tensors.get(f"{module}.alpha")
        part, target = _target(path)
        patterns.setdefault(part, {})[target] = (down.shape[0], down.shape[0] if alpha is None else alpha.scalar())
    flat = {f"{part}.{name}": value for part, known in patterns.items() for name, value in _peft_entries(known).items()}
    return converted, {**metadata, "format": "pt", ADAPTER_ENTRY: json.dumps(flat, sort_keys=True)}


def _peft_entries(modules: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """peft's LoraConfig entries: the first module's rank and alpha for all, and patterns for those that differ."""
    rank, alpha = next(iter(modules.values()))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, (r, _) in modules.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a) in modules.items() if a != alpha},
        "target_modules": sorted(modules),
    }


def to_kohya(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[dict[str, Raw], dict[str, str]]:
    """diffusers (peft) -> kohya names; alphas come from the metadata, else alpha is the rank."""
    try:
        settings = json.loads(metadata.get(ADAPTER_ENTRY, "{}"))
    except ValueError:
        settings = {}
    converted: dict[str, Raw] = {}
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        path = name.removesuffix(".lora_A.weight")
        part, target = _target(path)
        prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
        module = prefix + target.replace(".", "_")
        patterns = settings.get(f"{part}.alpha_pattern") or {}
        alpha = patterns.get(target, settings.get(f"{part}.lora_alpha", down.shape[0]))
        converted[f"{module}.lora_down.weight"] = down
        converted[f"{module}.lora_up.weight"] = tensors[f"{path}.lora_B.weight"]
        converted[f"{module}.alpha"] = Raw.of(float(alpha), down.dtype)
    return converted, {name: text for name, text in metadata.items() if name not in (ADAPTER_ENTRY, "format")}


def _target(path: str) -> tuple[str, str]:
    """`text_encoder.text_model.encoder.layers.0.mlp.fc1` -> part and module, without `text_model.`.

    peft matches ends of names, so the module is found whether transformers has that level (4) or not (5).
    """
    part, _, module = path.partition(".")
    return part, module.removeprefix("text_model.")


def module_path(name: str) -> str:
    """`down_blocks_0_attentions_0_proj_in` -> `down_blocks.0.attentions.0.proj_in`; words keep their underscores."""
    return ".".join(_WORD.findall(name))
