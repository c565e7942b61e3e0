"""Base models from the Hugging Face hub: `owner/model` or `owner/model@revision` becomes a folder or file here.

Only .safetensors, .json and .txt files of the parts that are needed are fetched, never a pickle. What is there already
is used without asking the hub, and what was fetched before an interruption is not fetched again. No torch.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub

from lora_studio.core import hub
from lora_studio.core.errors import UserError
from lora_studio.core.hub import RemoteFile, is_name
from lora_studio.core.progress import Event
from lora_studio.engine.detect import PIPELINES, detect


def at_hand(base: str, report: Callable[[Event], None]) -> Path:
    """The base at a path, or fetched by its name on the hub. A path that is not there is returned as it is."""
    path = Path(base).expanduser()
    return resolve(base, report) if is_name(base) and not path.exists() else path


def on_disk(name: str) -> Path | None:
    """The model of that name on the hub where it was fetched before."""
    return local(name) if is_name(name) else None


def resolve(name: str, report: Callable[[Event], None], cache_dir: Path | None = None) -> Path:
    """The folder or file of a model on the hub, fetched if it is not there yet; `cache_dir` is the hub's own if None.

    Raises UserError in plain words when there is no such model, it cannot be reached, or it cannot be trained on.
    """
    repo, revision = hub.split(name)
    present = local(name, cache_dir)
    if present is not None:
        return present

    def wanted(files: Sequence[RemoteFile]) -> list[RemoteFile]:
        chosen = choose(files, repo)
        if any(file.name == "model_index.json" for file in chosen):
            _check_index(repo, revision, cache_dir)
        return chosen

    folder = hub.fetch(name, wanted, report, cache_dir)
    return _file_or_folder(folder)


# --- What is here -----------------------------------------------------------------------------------------------


def local(name: str, cache_dir: Path | None = None) -> Path | None:
    """The whole model in the hub's cache, without asking the hub; None when it is not or only partly there."""
    folder = hub.local(name, lambda folder: detect(_file_or_folder(folder)).usable, cache_dir)
    return _file_or_folder(folder) if folder else None


def _file_or_folder(folder: Path) -> Path:
    """What can be trained on in a model's folder: all of it, or its one file."""
    single = sorted(folder.glob("*.safetensors"))
    return single[0] if len(single) == 1 and not (folder / "model_index.json").exists() else folder


# --- What is there ----------------------------------------------------------------------------------------------


def choose(files: Sequence[RemoteFile], repo: str) -> list[RemoteFile]:
    """The files that a base needs: of a diffusers folder its parts, half precision where all parts have it, else the
    one .safetensors file at its root. Raises UserError when there is nothing that can be used."""
    names = {file.name: file for file in files}
    if "model_index.json" not in names:
        single = [file for file in files if file.name.endswith(".safetensors") and "/" not in file.name]
        if len(single) == 1:
            return single
        if not single:
            raise UserError(f"{repo} holds no model in a form that can be used.", NO_MODEL)
        listed = ", ".join(file.name for file in single[:5])
        raise UserError(f"{repo} holds several models ({listed}).", "Download one of them and choose the file as base.")
    parts = [part for part in PARTS if any(name.startswith(f"{part}/") for name in names)]
    weights = {part: _weights(part, list(names)) for part in parts if part in WEIGHTED}
    lacking = next((part for part, found in weights.items() if not any(found.values())), None)
    if lacking is not None:
        raise UserError(
            f"{repo} has its {lacking} as a pickle only, which can run any program when it is opened.",
            "Choose a model with .safetensors files.",
        )
    half = all(found["fp16"] for found in weights.values())
    chosen = ["model_index.json"]
    for part in parts:
        chosen += [n for n in names if re.fullmatch(rf"{part}/[^/]+\.(json|txt)", n) and ".index." not in n]
        if part in weights:
            chosen += weights[part]["fp16" if half or not weights[part][""] else ""]
    return [names[name] for name in chosen]


NO_MODEL = "Choose a model with a diffusers folder or one .safetensors file."
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
PARTS = (*WEIGHTED, "tokenizer", "tokenizer_2", "scheduler")


def _weights(part: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Weight files of a part, plain and in half precision: one whole file, or pieces with their index."""
    found: dict[str, list[str]] = {}
    for variant, mark in (("", ""), ("fp16", r"\.fp16")):
        stem = rf"{part}/(?:diffusion_pytorch_model|model)"
        whole = [name for name in names if re.fullmatch(rf"{stem}{mark}\.safetensors", name)]
        pieces = [
            name
            for name in names
            if re.fullmatch(rf"{stem}{mark}-\d+-of-\d+\.safetensors|{stem}-\d+-of-\d+{mark}\.safetensors", name)
            or re.fullmatch(rf"{stem}\.safetensors\.index{mark}\.json|{stem}{mark}\.safetensors\.index\.json", name)
        ]
        found[variant] = whole or pieces
    return found


def _check_index(repo: str, revision: str | None, cache_dir: Path | None) -> None:
    """Look at the small file that says what kind of model it is, before the large ones are fetched."""
    path = huggingface_hub.hf_hub_download(
        repo, "model_index.json", revision=revision, cache_dir=cache_dir, endpoint=hub.endpoint()
    )
    try:
        kind = json.loads(Path(path).read_text("utf-8")).get("_class_name", "")
    except (ValueError, AttributeError):
        kind = ""
    if kind not in PIPELINES:
        raise UserError(
            f"{repo} is a model of the kind {kind or 'unnamed'}, which is not supported.",
            "Choose a Stable Diffusion 1.x, 2.x or XL model.",
        )
