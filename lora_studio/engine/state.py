"""The full state of a run on disk, to resume from bit for bit: safetensors and JSON, no pickle.

Each state is a folder `state/<step>` with a manifest of SHA-256 sums; it is written under another name and renamed,
and read only when every sum is right, so a crash while saving costs the newest state at most.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file

MANIFEST = "manifest.json"
FILES = {"weights.safetensors", "optimizer.safetensors", "optimizer.json", "extra.safetensors", "state.json"}
FIRST_VERSION = {"adapter.safetensors", "optimizer.safetensors", "state.json"}
# Entries of an optimizer's groups that say what is wanted; on resuming the present settings hold, not the saved ones.
SETTINGS = {"params", "name", "lr", "base_lr", "shared_lr", "relative", "betas", "weight_decay", "d_coef"}
SETTINGS |= {"fused", "foreach", "capturable"}


@dataclass(frozen=True)
class State:
    """A state read from disk and found whole."""

    step: int
    facts: dict[str, Any]
    """What the trainer wrote beside the tensors: settings, fingerprint of the data."""
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    """`kind`; `groups`, a list of each group's entries; `memory`, the entries of each parameter by its key."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Further tensors, such as the moving average."""


# --- writing ----------------------------------------------------------------------------------------------------------


def save_state(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Any,
    facts: dict[str, Any],
    keep: int,
    extra: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the state of `step`, then remove all but the newest `keep`. Raises UserError when the disk is full.

    `weights` holds, by key, the very parameters that the optimizer moves: its memory is kept under the same keys.
    States of later steps belong to a course of the run that was given up, or are damaged; they go too.
    """
    final, temporary = folder / f"{step:08d}", folder / f".new-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".new-*"):
            shutil.rmtree(left_over)
        temporary.mkdir()
        _write_files(temporary, step, weights, optimizer, facts, extra or {})
        for path in sorted(temporary.iterdir()):
            _sync(path)
        _sync(temporary)
        _put_in_place(temporary, final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"The state of step {step} cannot be written to {folder.name}/ ({reason}).",
            "Free some disk space, then resume: the state before it and all LoRA files are kept.",
        ) from error
    newer = [path for path in _states(folder) if int(path.name) > step]
    for path in [*newer, *_states(folder)[len(newer) + keep :]]:
        shutil.rmtree(path, ignore_errors=True)
    return final


def optimizer_state(optimizer: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """All that an optimizer knows: as its state_dict, but by the parameters' keys instead of by their number.

    Numbers change with the grouping (LoRA+, rates by layer), keys do not.
    """
    keys = {id(value): key for key, value in weights.items()}
    groups, memory = [], {}
    for group in optimizer.param_groups:
        assert group.get("train_mode", True), "save outside of averaged(): the weights to train with are needed"
        groups.append({name: value for name, value in group.items() if name != "params"})
        for parameter in group["params"]:
            memory[keys[id(parameter)]] = dict(optimizer.state.get(parameter, {}))
    return {"kind": optimizer.kind, "groups": groups, "memory": memory}


def _write_files(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Any,
    facts: dict[str, Any],
    extra: Mapping[str, Tensor],
) -> None:
    tensors: dict[str, Tensor] = {}
    structure = _pack(optimizer_state(optimizer, weights), "", tensors)
    named = {"weights": weights, "optimizer": tensors, "extra": extra}
    for name, values in named.items():
        save_file({key: _own(value) for key, value in values.items()}, folder / f"{name}.safetensors")
    (folder / "optimizer.json").write_text(json.dumps(structure), "utf-8")
    (folder / "state.json").write_text(json.dumps({"step": step, **facts}, indent=1), "utf-8")
    sums = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1), "utf-8")


def _own(value: Tensor) -> Tensor:
    """In main memory, in one piece and shared with no other tensor, as safetensors wants it."""
    value = value.detach()
    return (
        value.cpu().contiguous() if value.device.type != "cpu" else value.clone(memory_format=torch.contiguous_format)
    )


def _put_in_place(temporary: Path, final: Path) -> None:
    """Rename; a state of the same step steps aside first, and `_states` brings it back if we die in between."""
    aside = final.with_name(f".old-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        os.replace(final, aside)
    os.replace(temporary, final)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the system write a file or folder to the disk itself."""
    if path.is_dir():
        if os.name == "nt":
            return  # Windows neither can nor needs to sync folders
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading ----------------------------------------------------------------------------------------------------------


def newest_state(folder: Path) -> tuple[State | None, list[str]]:
    """The newest whole state (None if there is none), and the names of newer ones that are damaged."""
    damaged = []
    for path in _states(folder):
        state = _read(path)
        if state is not None:
            return state, damaged
        damaged.append(path.name)
    return None, damaged


def restore_optimizer(state: State, optimizer: Any, parameters: Mapping[str, Tensor]) -> None:
    """Put an optimizer's memory back; `parameters` are those that it moves, by key.

    What it has counted and found comes from the state, what the settings say (rates, decay) stays as it is now.
    Raises UserError when the state belongs to another optimizer or adapter.
    """
    saved = state.optimizer
    if saved["kind"] != optimizer.kind:
        raise UserError(
            f"The saved state was made with optimizer.kind {saved['kind']}; now it is {optimizer.kind}.",
            f"Set optimizer.kind to {saved['kind']} to go on, or start a new run.",
        )
    keys = {id(value): key for key, value in parameters.items()}
    moved = [(keys[id(p)], p, group) for group in optimizer.param_groups for p in group["params"]]
    for key, parameter, _ in moved:
        if key not in saved["memory"] or state.weights[key].shape != parameter.shape:
            raise UserError(
                f"The saved state belongs to an adapter of another size or with other layers ({key} differs).",
                "Set adapter.kind, adapter.rank, adapter.layers and the learning rates that were 0 as they were, "
                "or start a new run.",
            )
    for key, parameter, group in moved:
        entries = saved["memory"][key].items()
        optimizer.state[parameter] = {name: _placed(value, name, parameter, group) for name, value in entries}
    for index, group in enumerate(optimizer.param_groups):
        entries = _counterpart(saved["groups"], optimizer.param_groups, index).items()
        first = group["params"][0]
        group |= {name: _placed(value, name, first, group) for name, value in entries if name not in SETTINGS}


def _counterpart(saved: list[dict[str, Any]], groups: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """The saved group for the present one at `index`: the same one of its part, else the part's first, else any."""
    name = groups[index]["name"]
    place = sum(group["name"] == name for group in groups[:index])
    same = [group for group in saved if group["name"] == name] or saved
    return same[place] if place < len(same) else same[0] if same else {}


def _placed(value: Any, name: str, parameter: Tensor, group: dict[str, Any]) -> Any:
    """A copy of an entry, its tensors beside the parameter in the number format in which they were saved.

    torch's load_state_dict would turn them into the parameter's format; torch counts steps on the CPU unless fused.
    """
    if isinstance(value, Tensor):
        counts_here = name == "step" and not (group.get("fused") or group.get("capturable"))
        return value.clone() if counts_here else value.to(parameter.device, copy=True)
    if isinstance(value, dict):
        return {inner: _placed(entry, name, parameter, group) for inner, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_placed(entry, name, parameter, group) for entry in value)
    return value


def _states(folder: Path) -> list[Path]:
    """State folders, newest first."""
    if not folder.is_dir():
        return []
    for aside in folder.glob(".old-*"):
        final = folder / aside.name.removeprefix(".old-")
        if not final.exists():
            with suppress(OSError):
                os.replace(aside, final)
    found = [path for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _read(path: Path) -> State | None:
    """A state, or None where a file is missing, changed, or not what it should be."""
    try:
        sums = json.loads((path / MANIFEST).read_text("utf-8"))
        if set(sums) not in (FILES, FIRST_VERSION):
            return None
        if any(sha256_file(path / name) != value for name, value in sums.items()):
            return None
        facts = json.loads((path / "state.json").read_text("utf-8"))
        step, tensors = int(facts.pop("step")), load_file(path / "optimizer.safetensors")
        if set(sums) == FIRST_VERSION:
            return State(step, facts, load_file(path / "adapter.safetensors"), _first_version(tensors))
        structure = json.loads((path / "optimizer.json").read_text("utf-8"))
        weights, extra = (load_file(path / f"{name}.safetensors") for name in ("weights", "extra"))
        optimizer = _unpack(structure, tensors)
        return State(step, facts, weights, optimizer, extra) if set(optimizer) == {"kind", "groups", "memory"} else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _first_version(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The first version knew AdamW alone, and kept `<key>|exp_avg` and so on."""
    memory: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        key, entry = name.rsplit("|", 1)
        memory.setdefault(key, {})[entry] = value
    return {"kind": "adamw", "groups": [], "memory": memory}


# --- any state as JSON and tensors ------------------------------------------------------------------------------------


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for any nesting of dict, list, tuple, tensor and plain values; the tensors go to `tensors` by place.

    Floats come back exactly: JSON holds the shortest text that reads as the same number.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(entry, f"{name}/{key}", tensors)] for key, entry in value.items()]}
    if isinstance(value, (list, tuple)):
        packed = [_pack(entry, f"{name}/{index}", tensors) for index, entry in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": packed}
    raise TypeError(f"{name}: a {type(value).__name__} cannot be saved")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(entry, tensors) for key, entry in content}
    entries = [_unpack(entry, tensors) for entry in content]
    return tuple(entries) if kind == "tuple" else entries
