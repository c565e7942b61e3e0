"""The parts of a base model: from a diffusers folder, or through SingleFile from one .safetensors file."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file
from lora_studio.engine.families.single_file import SingleFile
from lora_studio.engine.memory import is_oom

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
REMEDY = "Choose another base (base.model), or get this one anew."
VAE_REMEDY = "Choose another VAE (base.vae), or leave it empty to take the base's own."
SD_SCALING = 0.18215  # of SD 1.x and 2.x: makes latents about as large as the noise
SHARD = re.compile(r"-\d{5}-of-\d{5}")


def load_part(path: Path, name: str, dtype: torch.dtype, vae: str = "", scaling: float = SD_SCALING) -> nn.Module:
    """`unet`, `vae`, `text_encoder` or `text_encoder_2` of the base at `path`, on the CPU.

    `vae` names another VAE; `scaling` is how the latents of the base's family are scaled, for where no file says it.
    Only .safetensors are read. Raises UserError when weights are missing, damaged or of another shape.
    """
    if name == "vae" and vae:
        return _other_vae(path, Path(vae).expanduser(), dtype, scaling)
    if path.is_file():
        return SingleFile(path).part(name, dtype)
    return _from_folder(path / name, name, dtype, REMEDY)


def load_tokenizer(path: Path, name: str) -> CLIPTokenizer:
    """`tokenizer` or `tokenizer_2` of the base at `path`."""
    if path.is_file():
        return SingleFile(path).tokenizer(name)
    return CLIPTokenizer.from_pretrained(path / name, local_files_only=True)


def load_scheduler_config(path: Path) -> dict[str, Any]:
    """What the base says of its noise schedule and of what it predicts."""
    if path.is_file():
        return SingleFile(path).scheduler_config()
    return json.loads((path / "scheduler" / "scheduler_config.json").read_text("utf-8"))


def part_identity(path: Path, name: str, vae: str = "", scaling: float = SD_SCALING) -> str:
    """SHA-256 over the weights of a part and what reading them depends on (its config; for text its tokenizer)."""
    if name == "vae" and vae:
        source = _vae_folder(Path(vae).expanduser())
        if source.is_dir():
            return _digest(_hashes(source))
        return _digest([SingleFile(source).identity(name), str(_scaling(path, scaling))])
    if path.is_file():
        return SingleFile(path).identity(name)
    hashes = _hashes(path / name)
    if name.startswith("text_encoder"):
        words = sorted((path / name.replace("text_encoder", "tokenizer")).glob("*"))
        hashes += [sha256_file(file) for file in words if file.is_file()]
    return _digest(hashes)


def _digest(hashes: list[str]) -> str:
    return hashlib.sha256("\0".join(hashes).encode()).hexdigest()


def _hashes(folder: Path) -> list[str]:
    return [sha256_file(path) for path in [folder / "config.json", *weight_files(folder)[1]]]


def weight_files(folder: Path) -> tuple[str, list[Path]]:
    """The variant of the weights that is read ("" is the plain one) and its files, several where they are sharded.

    The plain weights come first, then fp16, then whatever there is. Raises UserError when there are none.
    """
    variants: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        variant = SHARD.sub("", file.name.removesuffix(".safetensors")).partition(".")[2]
        variants.setdefault(variant, []).append(file)
    for variant in ("", "fp16", *variants):
        if variant in variants:
            return variant, variants[variant]
    raise UserError(f"{folder.parent.name}/{folder.name} has no .safetensors file.", REMEDY)


def _from_folder(folder: Path, name: str, dtype: torch.dtype, remedy: str) -> nn.Module:
    where = f"{folder.parent.name}/{folder.name}"
    variant, _ = weight_files(folder)
    try:
        part, told = CLASSES[name].from_pretrained(
            folder,
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            variant=variant or None,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        if is_oom(error):  # not the base's fault
            raise
        raise UserError(f"{where} cannot be loaded: {' '.join(str(error).split())[:300]}.", remedy) from error
    missing = sorted(told["missing_keys"])
    if missing:  # the libraries would go on with chance in their place
        raise UserError(f"{where} lacks {len(missing)} weights, {missing[0]} among them.", remedy)
    return part


# --- another VAE ------------------------------------------------------------------------------------------------


def _vae_folder(path: Path) -> Path:
    """A VAE's own file or folder; a whole model folder stands for the VAE in it."""
    if not path.exists():
        raise UserError(f"There is no VAE at {path}.", VAE_REMEDY)
    if path.is_dir() and not (path / "config.json").exists() and (path / "vae" / "config.json").exists():
        return path / "vae"
    return path


def _other_vae(base: Path, path: Path, dtype: torch.dtype, scaling: float) -> nn.Module:
    source = _vae_folder(path)
    if source.is_dir():
        vae = _from_folder(source, "vae", dtype, VAE_REMEDY)
    else:
        # a file of weights does not say how its latents are scaled: the base does
        vae = SingleFile(source, _scaling(base, scaling)).part("vae", dtype)
    wanted = _config(base / "unet").get("in_channels", 4)
    if vae.config.latent_channels != wanted:
        raise UserError(
            f"The VAE {path.name} makes latents of {vae.config.latent_channels} channels; the base reads {wanted}.",
            VAE_REMEDY,
        )
    return vae


def _scaling(base: Path, default: float) -> float:
    """How the base scales its latents; a single file does not say."""
    return _config(base / "vae").get("scaling_factor", default)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
