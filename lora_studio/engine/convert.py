"""LoRA files between kohya's and diffusers' layout, byte for byte: only names change, so back and forth is exact.

No torch: the page's process may call it. Works on raw tensors, so every number format passes through unharmed.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_studio.core.errors import UserError
from lora_studio.core.files import atomic_path
from lora_studio.engine.detect import detect
from lora_studio.engine.headers import DTYPE_BITS, read_header
from lora_studio.engine.keys import TEXT_LEVEL, kohya_name, module_name
from lora_studio.engine.lora_files import read_lora

# diffusers' own file has no alpha tensors: what peft needs stands in this entry, as save_lora_weights writes it
ADAPTER_ENTRY = "lora_adapter_metadata"
KOHYA_ENTRY = "lora_studio_kohya"
"""What kohya's file had and diffusers' cannot hold, so that going back is exact: alphas in another number format or
absent, and names in another spelling."""
OTHER_NAMES = ("lora_unet_input_blocks", "lora_unet_middle_block", "lora_unet_output_blocks")  # of the original code
DOWN, UP, ALPHA, DORA = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
MAGNITUDE = ".lora_magnitude_vector.weight"
"""DoRA's lengths; peft reads them with or without `.weight`, transformers' loader of text encoders only with it."""
WAY_OUT = (
    "Keep this file in kohya's layout, which Forge, ComfyUI and LoRA Studio load; for diffusers train a LoRA or DoRA."
)


CODES = {"F16": "<e", "F32": "<f", "F64": "<d", "I64": "<q", "I32": "<i"}
"""Number formats of single numbers, for struct."""


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
        if self.dtype not in CODES or len(self.data) != struct.calcsize(CODES[self.dtype]):
            raise UserError(f"A single number is stored as {self.dtype} {self.shape}.", "Export the LoRA again.")
        return float(struct.unpack(CODES[self.dtype], self.data)[0])

    @staticmethod
    def of(value: float, dtype: str) -> "Raw":
        """A scalar tensor."""
        if dtype == "BF16":
            return Raw(dtype, (), struct.pack("<f", value)[2:])
        code = CODES.get(dtype, "<f")
        number = value if code[1] in "efd" else round(value)
        return Raw(dtype if dtype in CODES else "F32", (), struct.pack(code, number))


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
    # in another layout the same numbers lie in another order, so the hashes that the file tells are made anew
    told = hashes(to_bytes(tensors, for_hashes(metadata)))
    metadata = {name: told.get(name, text) for name, text in metadata.items()}
    with atomic_path(target) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata))
        if read_raw(temporary) != (tensors, metadata):
            raise UserError(f"{target.name} cannot be read back as it was written.", "Check the disk and try again.")


def is_kohya(tensors: Mapping[str, object]) -> bool:
    """Whether the names are kohya's."""
    return any(name.startswith(("lora_unet_", "lora_te", "lycoris_")) for name in tensors)


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
    """The bytes of a .safetensors file: the widest numbers first, so that each lies where its size wants it."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    order = sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[item[1].dtype], item[0]))
    for name, raw in order:
        header[name] = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [place, place + len(raw.data)]}
        place += len(raw.data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return b"".join([len(text).to_bytes(8, "little"), text, *(raw.data for _, raw in order)])


def for_hashes(metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries that stand in the header of the file which `hashes` is asked for."""
    return {name: text for name, text in metadata.items() if name.startswith("ss_")}


def hashes(file: bytes) -> dict[str, str]:
    """The entries by which a LoRA file tells its own hashes. `file` is the whole file, but of its metadata only
    what `for_hashes` leaves, since the old hash may reach into the header.

    sd-scripts' two: SHA-256 of all after the header, and 8 digits of that of 64 KiB at 1 MiB. ModelSpec 1.0.1 asks for
    the hash of all after the header too, with 0x in front.
    """
    weights = hashlib.sha256(memoryview(file)[8 + int.from_bytes(file[:8], "little") :]).hexdigest()
    old = hashlib.sha256(memoryview(file)[0x100000:0x110000]).hexdigest()[:8]
    return {"sshs_model_hash": weights, "sshs_legacy_hash": old, "modelspec.hash_sha256": f"0x{weights}"}


def to_diffusers(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[dict[str, Raw], dict[str, str]]:
    """kohya -> diffusers (peft) names; ranks and alphas go into the metadata, by part.

    Raises UserError for kinds that diffusers cannot load.
    """
    family = spelling(tensors, metadata)
    modules = _modules(tensors)
    _check_kinds(modules)
    converted: dict[str, Raw] = {}
    parts: dict[str, dict[str, tuple[int, float, bool]]] = {}
    rest: dict[str, dict[str, Any]] = {"alphas": {}, "names": {}}
    for name, found in modules.items():
        part, path = _place(family, name)
        down, up, alpha, dora = (found.get(ending) for ending in (DOWN, UP, ALPHA, DORA))
        if down is None or up is None:
            raise UserError(f"{name} lacks one of its two tensors.", "Export the LoRA again.")
        converted[f"{part}.{path}.lora_A.weight"] = down
        converted[f"{part}.{path}.lora_B.weight"] = up
        if dora is not None:
            converted[f"{part}.{path}{MAGNITUDE}"] = _magnitude(name, dora, up)
        rank = down.shape[0]
        value = alpha.scalar() if alpha is not None else 0.0
        parts.setdefault(part, {})[path.removeprefix(TEXT_LEVEL)] = (rank, value or rank, dora is not None)
        written = kohya_name(family, part, path)
        if alpha is None or (alpha.dtype, alpha.shape) != (down.dtype, ()):
            rest["alphas"][written] = alpha and [alpha.dtype, list(alpha.shape)]
        if written != name:
            rest["names"][written] = name
    flat = {
        f"{part}.{key}": value for part, known in parts.items() for key, value in _peft_entries(part, known).items()
    }
    more = {ADAPTER_ENTRY: json.dumps(flat, sort_keys=True)}
    if any(rest.values()):
        more[KOHYA_ENTRY] = json.dumps({key: value for key, value in rest.items() if value}, sort_keys=True)
    return converted, {**metadata, "format": "pt", **more}


def spelling(tensors: Tensors, metadata: Mapping[str, str]) -> str:
    """Whether the names are those of SDXL (`sdxl`) or of the other families (`sd`)."""
    found = read_lora({name: raw.shape for name, raw in tensors.items()}, metadata)
    return "sdxl" if found is not None and found.family == "sdxl" else "sd"


def _modules(tensors: Tensors) -> dict[str, dict[str, Raw]]:
    """Tensors by module and ending (with its dot)."""
    modules: dict[str, dict[str, Raw]] = {}
    for name, raw in tensors.items():
        module, _, ending = name.partition(".")
        modules.setdefault(module, {})[f".{ending}"] = raw
    return modules


def _check_kinds(modules: Mapping[str, Mapping[str, Raw]]) -> None:
    """diffusers' loader takes LoRA and DoRA only, and of DoRA all modules of a part or none."""
    for name, found in modules.items():
        odd = sorted(set(found) - {DOWN, UP, ALPHA, DORA})
        if odd:
            shapes = {f"{name}{ending}": raw.shape for ending, raw in found.items()}
            kind = read_lora(shapes, {})
            word = kind.words if kind is not None and kind.kinds else "LyCORIS"
            if odd == [".lora_mid.weight"]:
                word = "Tucker LoCon"
            raise UserError(f"diffusers cannot load {word} files ({name}{odd[0]}).", WAY_OUT)
    for prefix in ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"):
        having = {DORA in found for name, found in modules.items() if name.startswith(prefix)}
        if len(having) > 1:
            raise UserError("diffusers cannot load a file in which only some layers are DoRA.", WAY_OUT)


def _place(family: str, name: str) -> tuple[str, str]:
    """Part and path as diffusers' files spell them: text encoders with the level `text_model.`."""
    if family == "sd" and name.startswith(OTHER_NAMES):
        raise UserError(f"{name} is no layer of a Stable Diffusion 1.x LoRA.", "Export it in kohya's layout.")
    try:
        part, path = module_name(family, name)
    except ValueError as error:
        raise UserError(f"{error}.", "Export it in kohya's layout.") from error
    if part != "unet" and not path.startswith("text_projection"):
        path = TEXT_LEVEL + path.removeprefix(TEXT_LEVEL)
    return part, path


def _magnitude(name: str, dora: Raw, up: Raw) -> Raw:
    """DoRA's lengths as peft shapes them: (out,) of a linear layer, (1, out, 1, 1) of a convolution."""
    out = up.shape[0]
    if dora.shape[:1] != (out,) or any(side != 1 for side in dora.shape[1:]):
        raise UserError(f"diffusers cannot load {name}: its DoRA is by input, not by output.", WAY_OUT)
    return Raw(dora.dtype, (1, out, 1, 1) if len(up.shape) == 4 else (out,), dora.data)


def _peft_entries(part: str, modules: Mapping[str, tuple[int, float, bool]]) -> dict[str, Any]:
    """peft's LoraConfig entries: the first module's rank and alpha for all, and patterns for those that differ.

    peft matches ends of names, so text modules are found without `text_model.`, whether transformers has it or not.
    """
    rank, alpha, dora = next(iter(modules.values()))
    found = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, (r, _, _) in modules.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a, _) in modules.items() if a != alpha},
        "target_modules": sorted(modules),
    }
    return found | ({"use_dora": True} if dora else {})


def to_kohya(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[dict[str, Raw], dict[str, str]]:
    """diffusers (peft) -> kohya names; alphas come from the metadata, else alpha is the rank."""
    family = spelling(tensors, metadata)
    settings, rest = _table(metadata, ADAPTER_ENTRY), _table(metadata, KOHYA_ENTRY)
    alphas, names = _inner(rest, "alphas"), _inner(rest, "names")
    converted: dict[str, Raw] = {}
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        whole = name.removesuffix(".lora_A.weight")
        part, _, path = whole.partition(".")
        try:
            written = kohya_name(family, part, path)
        except (ValueError, KeyError) as error:
            raise UserError(f"{whole} has no name in kohya's layout.", "Keep the file as it is.") from error
        module = str(names.get(written, written))
        up = tensors[f"{whole}.lora_B.weight"]
        converted[f"{module}{DOWN}"], converted[f"{module}{UP}"] = down, up
        dora = tensors.get(f"{whole}{MAGNITUDE}", tensors.get(f"{whole}{MAGNITUDE.removesuffix('.weight')}"))
        if dora is not None:
            converted[f"{module}{DORA}"] = Raw(dora.dtype, (up.shape[0], *[1] * (len(up.shape) - 1)), dora.data)
        form = alphas.get(written, [down.dtype, []])
        if form is not None:
            alpha = Raw.of(_alpha(settings, part, path, down.shape[0]), form[0])
            converted[f"{module}{ALPHA}"] = Raw(alpha.dtype, tuple(form[1]), alpha.data)
    dropped = (ADAPTER_ENTRY, KOHYA_ENTRY, "format")
    return converted, {name: text for name, text in metadata.items() if name not in dropped}


def _table(metadata: Mapping[str, str], entry: str) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get(entry, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _inner(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _alpha(settings: Mapping[str, Any], part: str, path: str, rank: int) -> float:
    """A module's alpha: peft's patterns are ends of names; rank-stabilised files scale by its root."""
    bare = path.removeprefix(TEXT_LEVEL)
    patterns = _inner(settings, f"{part}.alpha_pattern")
    ends = (value for end, value in patterns.items() if f".{bare}".endswith(f".{end.removeprefix(TEXT_LEVEL)}"))
    alpha = next(ends, settings.get(f"{part}.lora_alpha", rank))
    try:
        return float(alpha) * (math.sqrt(rank) if settings.get(f"{part}.use_rslora") else 1.0)
    except (TypeError, ValueError):
        return float(rank)
