"""Latents and text states on disk, shared between runs, keyed by all that went into them, so never stale.

A file is written whole or not at all; one that cannot be read, or holds something else, is made anew.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.files import atomic_path
from lora_studio.engine.data import Picture, load_pixels
from lora_studio.engine.families.base import Family

ENCODE_PIXELS = 2**20  # pictures encoded at once: as many as make up one megapixel
VERSION = "1"  # raise when what is cached changes its meaning


def key(*parts: object) -> str:
    """Name of a cache entry: SHA-256 over everything it was made from."""
    return hashlib.sha256("\0".join(map(str, (VERSION, *parts))).encode()).hexdigest()


def read(folder: Path, name: str) -> Tensor | None:
    """The tensor kept under this name; None when there is none or it cannot be read."""
    try:
        return load_file(folder / name[:2] / f"{name}.safetensors")["value"]
    except (OSError, SafetensorError, KeyError):
        return None


def write(folder: Path, name: str, value: Tensor) -> None:
    """Keep a tensor under this name. Raises UserError when the disk is full."""
    with atomic_path(folder / name[:2] / f"{name}.safetensors") as temporary:
        temporary.write_bytes(save({"value": value.contiguous()}))


def latents(
    pictures: Iterable[tuple[Picture, bool]],
    family: Family,
    folder: Path,
    progress: Callable[[int, int], None],
) -> dict[tuple[str, bool], Tensor]:
    """Latents (C, h, w) in fp32 by (picture id, flipped); what is not in `folder` is encoded in batches and kept.

    Raises UserError naming the picture that cannot be read or whose latents are not finite.
    """
    wanted = list(pictures)
    vae = family.identity("vae")
    found: dict[tuple[str, bool], Tensor] = {}
    missing: dict[tuple[int, int], list[tuple[Picture, bool, str]]] = {}
    for picture, flip in wanted:
        name = key("latents", picture.sha256, picture.crop, picture.bucket, vae, "fp32", flip)
        value = read(folder / "latents", name)
        if value is None or not torch.isfinite(value).all():
            missing.setdefault(picture.bucket, []).append((picture, flip, name))
        else:
            found[picture.id, flip] = value
    progress(len(found), len(wanted))
    for bucket, entries in missing.items():
        size = max(1, ENCODE_PIXELS // (bucket[0] * bucket[1]))
        for start in range(0, len(entries), size):
            batch = entries[start : start + size]
            encoded = family.encode_images(torch.stack([load_pixels(p, flip) for p, flip, _ in batch])).float().cpu()
            for (picture, flip, name), value in zip(batch, encoded, strict=True):
                _refuse_broken(value, picture)
                write(folder / "latents", name, value)
                found[picture.id, flip] = value.clone()
            progress(len(found), len(wanted))
    return found


def _refuse_broken(value: Tensor, picture: Picture) -> None:
    if not torch.isfinite(value).all():
        raise UserError(
            f"The VAE of the base model turned {picture.file.name} into numbers that are not finite (NaN).",
            "The base's VAE is damaged or the picture is extreme: reject the picture, or use another base.",
        )


class TextStates:
    """States of captions by a frozen text encoder; kept in memory, and on disk when `folder` is given."""

    def __init__(self, family: Family, clip_skip: int, folder: Path | None) -> None:
        self.family, self.clip_skip, self.folder = family, clip_skip, folder
        self.identity = family.identity("text_encoder") if folder else ""
        self._memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """(B, tokens, width) for the captions, encoding only those not met before."""
        names = {text: key("text", text, self.identity, self.clip_skip, self.family.dtype) for text in texts}
        for text, name in names.items():
            if self.folder and text not in self._memory:
                value = read(self.folder / "text", name)
                if value is not None:
                    self._memory[text] = value.to(self.family.device)
        new = [text for text in names if text not in self._memory]
        if new:
            for text, value in zip(new, self.family.encode_text(new, self.clip_skip), strict=True):
                if self.folder:
                    write(self.folder / "text", names[text], value.cpu())
                self._memory[text] = value
        states = torch.stack([self._memory[text] for text in texts])
        if self.folder is None:  # captions that change in every step would fill the memory
            self._memory.clear()
        return states
