"""Adapter files in kohya's layout, with their hashes, read back after writing."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.files import atomic_path
from lora_studio.engine.adapters.delta import by_module, changes_something
from lora_studio.engine.convert import for_hashes, hashes, is_kohya, read_raw, to_bytes, to_kohya
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
    if tensors and not any(changes_something(own) for own in by_module(tensors).values()):
        raise UserError(
            "The LoRA would be empty: training has not moved any weight.", "Raise optimizer.unet_lr or train longer."
        )
    whole = {**metadata, **hashes(save(dict(tensors), for_hashes(metadata)))}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(dict(tensors), whole))  # safetensors' own writing hides a full disk from OSError
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


def load_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by kohya's names and metadata of a LoRA file in either layout.

    Raises UserError with the reason when it is none that can be used.
    """
    found = detect(path)
    if found.kind != "lora" or found.problem:
        reason = found.problem or f"it is a {found.detail or found.kind}"
        raise UserError(f"{path.name} is no LoRA that can be used: {reason}.", "Choose a LoRA file made for this base.")
    raw, metadata = read_raw(path)
    if not is_kohya(raw):
        raw, metadata = to_kohya(raw, metadata)
    tensors = load(to_bytes(raw, metadata))
    broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), "")
    if broken:
        raise UserError(
            f"{path.name} holds numbers that are not finite (in {broken}).",
            "The file is damaged, or its training went wrong: choose another.",
        )
    return tensors, metadata


def even_alphas(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same LoRA with one alpha for all modules, in fp32: what differs is multiplied into the up weights.

    diffusers (0.42) forgets single alphas in the text encoder, and loses a missing alpha where ranks differ.
    """
    end = ".lora_down.weight"
    ranks = {name.removesuffix(end): value.shape[0] for name, value in tensors.items() if name.endswith(end)}
    alphas = {name: float(tensors.get(f"{name}.alpha", rank)) for name, rank in ranks.items()}
    common = next(iter(alphas.values()))
    even = {name: value.float() for name, value in tensors.items() if not name.endswith(".alpha")}
    for name, alpha in alphas.items():
        even[f"{name}.lora_up.weight"] = even[f"{name}.lora_up.weight"] * (alpha / common)
        even[f"{name}.alpha"] = torch.tensor(common)
    return even
