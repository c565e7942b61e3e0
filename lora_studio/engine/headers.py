"""The headers of .safetensors files: names, shapes and metadata, checked before anything else is believed. No torch.

Pickles are known by their content, whatever their name.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

MAX_HEADER = 100 * 2**20  # the limit of the safetensors library itself
DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip


class HeaderError(ValueError):
    """Not a whole, sane safetensors file; the text says why."""


def read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by key and the metadata of a .safetensors file, checked against the file's size.

    Raises HeaderError with the reason for anything that is not a whole file of that format.
    """
    size = path.stat().st_size
    if size < 8:
        raise HeaderError(f"it is empty or cut off ({size} bytes)")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise HeaderError("it is not a safetensors file (its header would be larger than 100 MB)")
        if 8 + length > size:
            raise HeaderError("it is cut off: its header reaches past the end of the file")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise HeaderError("it is not a safetensors file (its header is not JSON)") from None
    if not isinstance(header, dict):
        raise HeaderError("it is not a safetensors file (its header is not a table)")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise HeaderError("its metadata is not a table")
    _check_layout(header, size - 8 - length)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}, {
        str(k): str(v) for k, v in metadata.items()
    }


def _check_layout(header: dict[str, Any], data_size: int) -> None:
    spans = []
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = [*shape, start, end]
        except (TypeError, KeyError, ValueError):
            raise HeaderError(f"its entry {name[:80]!r} is malformed") from None
        if not all(type(number) is int and 0 <= number < 2**62 for number in numbers) or dtype not in DTYPE_BITS:
            raise HeaderError(f"its entry {name[:80]!r} has an impossible shape, type or place")
        if end > data_size:
            raise HeaderError(f"it is cut off: {name[:80]!r} reaches past the end of the file")
        if (end - start) * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
            raise HeaderError(f"its entry {name[:80]!r} does not have the size its shape needs")
        spans.append((start, end, name))
    reached = 0
    for start, end, name in sorted(spans):
        if start != reached:
            raise HeaderError(f"its entry {name[:80]!r} overlaps another or leaves a hole")
        reached = end
    if reached != data_size:
        raise HeaderError("it has bytes that belong to no tensor")


def is_pickle(path: Path) -> bool:
    """Whether the content is a pickle or a zip around one, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(512)
    torch_zip = start.startswith(b"PK\x03\x04") and (
        b"data.pkl" in start or path.suffix in (".ckpt", ".pt", ".bin", ".pth")
    )
    return torch_zip or (
        start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and start[2:8] != bytes(6)
    )


def prediction(keys: Collection[str], metadata: Mapping[str, str]) -> str:
    """What a model in one file predicts (`epsilon`, `v_prediction`), from its metadata or the keys that NoobAI-like
    files carry as marks; empty when it does not say."""
    if "v_pred" in keys:
        return "v_prediction"
    said = metadata.get("modelspec.prediction_type", "").strip().lower()
    known = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
    if said in known:
        return known[said]
    if metadata.get("modelspec.architecture", "").split("/")[0].endswith("-v"):  # stable-diffusion-v2-768-v
        return "v_prediction"
    return ""


def zero_terminal_snr(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a model in one file says that it was made with zero terminal SNR."""
    said = metadata.get("ss_zero_terminal_snr", metadata.get("ztsnr", "")).strip().lower()
    return "ztsnr" in keys or said in ("true", "1", "yes")
