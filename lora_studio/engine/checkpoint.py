"""LoRA files in kohya's layout, with their hashes, read back after writing."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.files import atomic_path
from lora_studio.engine.detect import detect


def save_lora(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a LoRA file atomically, with its hashes, and read it back.

    Raises UserError when it cannot be written, or holds nothing or numbers that are not finite.
    """
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"The weights to be saved are not finite ({name}).",
                "Lower optimizer.unet_lr, or choose precision fp32, and resume from the last good state.",
            )
    ups = [value for name, value in tensors.items() if name.endswith(("lora_up.weight", "lora_B.weight"))]
    if ups and not any(value.any() for value in ups):
        raise UserError(
            "The LoRA would be empty: training has not moved any weight.", "Raise optimizer.unet_lr or train longer."
        )
    whole = {**metadata, "sshs_model_hash": model_hash(tensors, metadata)}
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata=whole)
        _read_back(temporary, tensors)


def _read_back(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"The file just written cannot be read ({error}).", "Check the disk; the last good file is untouched."
        ) from error
    if set(found) != set(tensors) or not all(torch.equal(found[name], tensors[name]) for name in tensors):
        raise UserError(
            "The file just written differs from the LoRA in memory.", "Check the disk; the last good file is untouched."
        )


def model_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sshs_model_hash: SHA-256 of the bytes after the header of the file whose header holds only the ss_* entries."""
    data = save(dict(tensors), {name: text for name, text in metadata.items() if name.startswith("ss_")})
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def load_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA file. Raises UserError with the reason when it is none that can be used."""
    found = detect(path)
    if found.kind != "lora" or found.problem:
        reason = found.problem or f"it is a {found.detail or found.kind}"
        raise UserError(f"{path.name} is no LoRA that can be used: {reason}.", "Choose a LoRA file made for this base.")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return load_file(path), metadata
