"""The full state of a run on disk, to resume from bit for bit: safetensors and JSON, no pickle.

Each state is a folder `state/<step>` with a manifest of SHA-256 sums; it is written under another name and renamed,
and read only when every sum is right, so a crash while saving costs the newest state at most.
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer

from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file
from lora_studio.engine.adapters import Adapter

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class State:
    """A state read from disk and found whole."""

    step: int
    facts: dict[str, Any]
    """What the trainer wrote beside the tensors: settings, fingerprint of the data."""
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save_state(
    folder: Path, step: int, adapter: Adapter, optimizer: Optimizer, facts: dict[str, Any], keep: int
) -> Path:
    """Write the state of `step`, then remove all but the newest `keep`. Raises UserError when the disk is full."""
    final, temporary = folder / f"{step:08d}", folder / f".new-{step:08d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in adapter.named_parameters()}
        (temporary / "adapter.safetensors").write_bytes(save(tensors))
        (temporary / "optimizer.safetensors").write_bytes(save(optimizer_tensors(adapter, optimizer)))
        (temporary / "state.json").write_text(json.dumps({"step": step, **facts}, indent=1), "utf-8")
        sums = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps(sums, indent=1), "utf-8")
        for path in [*temporary.iterdir(), temporary]:
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"The state of step {step} cannot be written to {folder.name}/ ({error.strerror or error}).",
            "Free some disk space, then resume: the state before it and all LoRA files are kept.",
        ) from error
    for old in _states(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_state(folder: Path) -> tuple[State | None, list[str]]:
    """The newest whole state (None if there is none), and the names of newer ones that are damaged."""
    damaged = []
    for path in _states(folder):
        state = _read(path)
        if state is not None:
            return state, damaged
        damaged.append(path.name)
    return None, damaged


def optimizer_tensors(adapter: Adapter, optimizer: Optimizer) -> dict[str, Tensor]:
    """AdamW's memory by the parameter's key and its own name, e.g. `<key>|exp_avg`."""
    return {
        f"{name}|{entry}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in adapter.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def restore(state: State, adapter: Adapter, optimizer: Optimizer) -> None:
    """Put weights and optimizer memory back. Raises UserError when they belong to another adapter."""
    try:
        adapter.load(state.adapter)
        for name, parameter in adapter.named_parameters():
            entries = {key.split("|")[1]: value for key, value in state.optimizer.items() if key.split("|")[0] == name}
            if entries:
                optimizer.state[parameter] = {
                    entry: value.clone()
                    if entry == "step" and parameter.device.type == "cpu"
                    else value.to(parameter.device)
                    for entry, value in entries.items()
                }
    except (KeyError, RuntimeError) as error:
        raise UserError(
            "The saved state belongs to an adapter of another size or with other layers.",
            "Set adapter.rank, adapter.layers and optimizer.text_encoder_lr as they were, or start a new run.",
        ) from error


def _states(folder: Path) -> list[Path]:
    """State folders, newest first."""
    found = [path for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _read(path: Path) -> State | None:
    try:
        sums = json.loads((path / MANIFEST).read_text("utf-8"))
        wanted = {"adapter.safetensors", "optimizer.safetensors", "state.json"}
        if set(sums) != wanted or any(sha256_file(path / name) != value for name, value in sums.items()):
            return None
        facts = json.loads((path / "state.json").read_text("utf-8"))
        tensors = [load_file(path / name) for name in ("adapter.safetensors", "optimizer.safetensors")]
        return State(int(facts.pop("step")), facts, *tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(PermissionError):  # folders cannot be synced on every system
            os.fsync(handle)
    finally:
        os.close(handle)
