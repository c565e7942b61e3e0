"""The full state on disk: whole or passed over, exact, and only for the run that it belongs to."""

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file
from lora_studio.engine.config import OptimizerConfig
from lora_studio.engine.optimizers import ParamGroup, averaged, make_optimizer, set_rate
from lora_studio.engine.state import FILES, MANIFEST, State, newest_state, restore_optimizer, save_state
from lora_studio.engine.state import _pack as pack
from lora_studio.engine.state import _unpack as unpack

Weights = dict[str, nn.Parameter]


def weights(rank: int = 2) -> Weights:
    chance = torch.Generator().manual_seed(0)
    shapes = {"a.down": (rank, 6), "a.up": (6, rank), "b.down": (rank, 6), "b.up": (6, rank)}
    return {name: nn.Parameter(torch.randn(shape, generator=chance)) for name, shape in shapes.items()}


def optimizer_of(parameters: Weights, kind: str = "adamw", **settings: Any) -> Any:
    groups = [
        ParamGroup("unet", [p for name, p in parameters.items() if name.startswith("a")], 0.1),
        ParamGroup("text_encoder", [p for name, p in parameters.items() if name.startswith("b")], 0.1),
    ]
    return make_optimizer(groups, OptimizerConfig(kind=kind, **settings))


def step(parameters: Weights, optimizer: Any, number: int) -> None:
    for index, parameter in enumerate(parameters.values()):
        chance = torch.Generator().manual_seed(100 * number + index)
        parameter.grad = torch.randn(parameter.shape, generator=chance)
    optimizer.step()


def saved(folder: Path, *steps: int, keep: int = 9, kind: str = "adamw") -> tuple[Weights, Any]:
    """States of these steps; returns the weights and the optimizer after the last."""
    parameters = weights()
    optimizer = optimizer_of(parameters, kind)
    for number in range(1, max(steps) + 1):
        step(parameters, optimizer, number)
        if number in steps:
            extra = {"average/a.up": torch.full((6, 2), float(number))}
            save_state(folder, number, parameters, optimizer, {"settings": {"n": number}}, keep, extra)
    return parameters, optimizer


def loaded(folder: Path) -> State:
    state, _ = newest_state(folder)
    assert state is not None
    return state


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is written and read -----------------------------------------------------------------------------------------


def test_a_state_holds_weights_memory_facts_and_what_is_added(tmp_path: Path) -> None:
    parameters, optimizer = saved(tmp_path, 3)
    state = loaded(tmp_path)
    assert state.step == 3 and state.facts == {"settings": {"n": 3}}
    assert all(torch.equal(state.weights[name], value) for name, value in parameters.items())
    assert torch.equal(state.extra["average/a.up"], torch.full((6, 2), 3.0))
    assert state.optimizer["kind"] == "adamw" and state.optimizer["groups"][0]["betas"] == (0.9, 0.999)
    for name, parameter in parameters.items():
        assert torch.equal(state.optimizer["memory"][name]["exp_avg"], optimizer.state[parameter]["exp_avg"])


def test_any_nesting_and_any_number_format_comes_back() -> None:
    formats = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]
    value = {
        "none": None, "yes": True, "no": False, "count": 3, "large": 2**70, "text": "d/0|x", "float": 0.1 + 0.2,
        "infinite": math.inf, "tiny": 5e-324, "tuple": (0.9, [1, (), {}]), 7: {"key": [None, [torch.ones(2)]]},
        "tensors": [torch.ones(3, 2).to(dtype) for dtype in [*formats, torch.bool]], "zero": torch.tensor(3.0),
        "empty": torch.zeros(0, 4), "turned": torch.arange(6).reshape(2, 3).T,
    }  # fmt: skip
    tensors: dict[str, Tensor] = {}
    back = unpack(json.loads(json.dumps(pack(value, "", tensors))), tensors)
    assert len(tensors) == len(formats) + 1 + 4

    def alike(one: Any, other: Any) -> bool:
        if isinstance(one, Tensor):
            return one.dtype == other.dtype and torch.equal(one, other)
        if isinstance(one, dict):
            return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
        if isinstance(one, (list, tuple)):
            return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
        return type(one) is type(other) and one == other

    assert alike(value, back)


def test_what_cannot_be_saved_is_said_and_not_dropped() -> None:
    with pytest.raises(TypeError, match="groups/0/odd: a set"):
        pack({"groups": [{"odd": {1, 2}}]}, "", {})


def test_tensors_that_share_memory_or_lie_crosswise_are_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    extra = {"whole": base, "part": base[1:], "turned": base.T}
    parameters = weights()
    save_state(tmp_path, 1, parameters, optimizer_of(parameters), {}, 1, extra)
    state = loaded(tmp_path)
    assert all(torch.equal(state.extra[name], value) for name, value in extra.items())


def test_the_averaged_weights_of_schedule_free_are_not_taken_for_the_trained_ones(tmp_path: Path) -> None:
    parameters = weights()
    optimizer = optimizer_of(parameters, "schedulefree_adamw")
    step(parameters, optimizer, 1)
    with averaged(optimizer), pytest.raises(AssertionError, match="outside of averaged"):
        save_state(tmp_path, 1, parameters, optimizer, {}, 1)


# --- which states are kept --------------------------------------------------------------------------------------------


def test_the_newest_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 3, 5, 7, keep=2)
    assert names(tmp_path) == ["00000005", "00000007"]
    assert loaded(tmp_path).step == 7


def test_states_of_a_course_that_was_given_up_go(tmp_path: Path) -> None:
    """Resumed at 4 as 6 was damaged: with one state to keep, the new one of 5 must not make way for 6."""
    saved(tmp_path, 4, 6)
    (tmp_path / "00000006/state.json").write_text("{}")
    saved(tmp_path, 5, keep=1)
    assert names(tmp_path) == ["00000005"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    parameters, optimizer = saved(tmp_path, 2)
    save_state(tmp_path, 2, parameters, optimizer, {"again": True}, 2)
    assert names(tmp_path) == ["00000002"] and loaded(tmp_path).facts == {"again": True}


def test_no_folder_and_strange_files_are_no_trouble(tmp_path: Path) -> None:
    assert newest_state(tmp_path / "none") == (None, [])
    saved(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "99999999").write_text("a file, not a state")
    (tmp_path / "7x").mkdir()
    state, damaged = newest_state(tmp_path)
    assert state is not None and state.step == 1 and damaged == []


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*sorted(FILES), MANIFEST])
def test_damage_to_any_file_is_seen_and_the_state_before_it_taken(name: str, damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 2, 4, 6)
    DAMAGE[damage](tmp_path / "00000006" / name)
    state, damaged = newest_state(tmp_path)
    assert state is not None and state.step == 4 and damaged == ["00000006"]


def test_when_all_are_damaged_all_are_named(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4)
    for path in tmp_path.iterdir():
        flip(path / "optimizer.safetensors")
    assert newest_state(tmp_path) == (None, ["00000004", "00000002"])


@pytest.mark.parametrize("manifest", ["[]", "null", '{"state.json": 3}', '"text"', "{", "{}"])
def test_a_manifest_of_another_kind_is_damage(manifest: str, tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / "00000002" / MANIFEST).write_text(manifest)
    assert newest_state(tmp_path) == (None, ["00000002"])


@pytest.mark.parametrize("text", ["[]", "3", '{"dict": 3}', '{"dict": [["memory", {"tensor": "none"}]]}', '{"a": 1}'])
def test_a_structure_that_makes_no_sense_is_damage_even_with_a_right_sum(text: str, tmp_path: Path) -> None:
    saved(tmp_path, 2)
    path = tmp_path / "00000002"
    (path / "optimizer.json").write_text(text)
    sums = json.loads((path / MANIFEST).read_text())
    sums["optimizer.json"] = sha256_file(path / "optimizer.json")
    (path / MANIFEST).write_text(json.dumps(sums))
    assert newest_state(tmp_path) == (None, ["00000002"])


# --- full disks and sudden ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", range(9))
def test_a_disk_that_fills_up_at_any_moment_is_told_and_leaves_the_state_before(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine calls reach the disk: six files and the folder are synced, the folder renamed, the folder above synced."""
    saved(tmp_path, 2)
    calls = 0

    def full(real: Callable[..., Any]) -> Callable[..., Any]:
        def function(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*given)

        return function

    parameters = weights()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full(os.fsync))
        patch.setattr(os, "replace", full(os.replace))
        with pytest.raises(UserError, match=r"state of step 3 .*No space left on device.*Free some disk space"):
            save_state(tmp_path, 3, parameters, optimizer_of(parameters), {}, keep=1)
    assert calls == call + 1 and not list(tmp_path.glob(".*"))
    assert loaded(tmp_path).step == (
        3 if call == 8 else 2
    )  # at the last call all is there, only not surely on the disk


def test_a_file_that_cannot_be_written_whole_is_told(tmp_path: Path) -> None:
    """A real limit of the system's, in a process of its own: no file may grow over 300 bytes."""
    code = f"""
import resource, sys
from pathlib import Path
from tests.engine.test_state import saved, save_state, newest_state, UserError
folder = Path({str(tmp_path)!r})
parameters, optimizer = saved(folder, 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
try:
    save_state(folder, 3, parameters, optimizer, {{}}, 1)
except UserError as error:
    print(error)
"""
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True).stdout
    assert "The state of step 3 cannot be written" in out and "File too large" in out and "Free some disk" in out
    assert names(tmp_path) == ["00000002"] and loaded(tmp_path).step == 2


class Killed(BaseException):
    """As if the power went."""


@pytest.mark.parametrize("rename", [0, 1])
def test_dying_while_a_step_is_saved_again_loses_nothing(
    rename: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, optimizer = saved(tmp_path, 2, keep=1)
    real, calls = os.replace, []

    def die(*given: Any) -> None:
        calls.append(given)
        if len(calls) == rename + 1:
            raise Killed
        real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Killed):
            save_state(tmp_path, 2, parameters, optimizer, {"again": True}, keep=1)
    assert loaded(tmp_path).step == 2
    save_state(tmp_path, 2, parameters, optimizer, {"again": True}, keep=1)
    assert names(tmp_path) == ["00000002"] and loaded(tmp_path).facts == {"again": True}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs to know which file a handle belongs to")
def test_files_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        order.append(str(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path.parent)))
        sync(handle)

    def note_replace(one: Path, other: Path) -> None:
        order.append(f"{one.name} -> {other.name}")
        replace(one, other)

    parameters = weights()
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    save_state(tmp_path, 5, parameters, optimizer_of(parameters), {}, 1)
    top, new = tmp_path.name, f"{tmp_path.name}/.new-00000005"
    assert sorted(order[:6]) == sorted(f"{new}/{name}" for name in [*FILES, MANIFEST])
    assert order[6:] == [new, ".new-00000005 -> 00000005", top]


# --- whose state it is ------------------------------------------------------------------------------------------------


def test_the_state_of_another_optimizer_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 2, kind="lion")
    parameters = weights()
    with pytest.raises(UserError, match=r"made with optimizer\.kind lion; now it is adamw"):
        restore_optimizer(loaded(tmp_path), optimizer_of(parameters), parameters)


def test_the_state_of_another_size_is_refused_and_nothing_touched(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    parameters = weights(rank=4)
    optimizer = optimizer_of(parameters)
    with pytest.raises(UserError, match=r"adapter\.rank"):
        restore_optimizer(loaded(tmp_path), optimizer, parameters)
    assert not optimizer.state


def test_a_parameter_that_the_state_does_not_know_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    parameters = {**weights(), "c.up": nn.Parameter(torch.zeros(2, 2))}
    optimizer = make_optimizer([ParamGroup("unet", list(parameters.values()), 0.1)], OptimizerConfig())
    with pytest.raises(UserError, match=r"c\.up differs"):
        restore_optimizer(loaded(tmp_path), optimizer, parameters)


def test_present_settings_hold_and_what_was_counted_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 4, kind="schedulefree_adamw")
    parameters = weights()
    optimizer = optimizer_of(parameters, "schedulefree_adamw", weight_decay=0.5, betas=(0.8, 0.9))
    restore_optimizer(loaded(tmp_path), optimizer, parameters)
    group = optimizer.param_groups[1]
    assert (group["weight_decay"], group["betas"], group["name"]) == (0.5, (0.8, 0.9), "text_encoder")
    assert group["k"] == 4 and group["weight_sum"] > 0 and group["train_mode"]


@pytest.mark.parametrize("kind", ["adamw", "prodigy", "lion"])
def test_a_new_grouping_finds_the_memory_of_each_parameter(kind: str, tmp_path: Path) -> None:
    """LoRA+ turned on between: the parameters come in another order, which must mix nothing up."""
    before, old = saved(tmp_path, 5, kind=kind)
    parameters = weights()
    groups = [
        ParamGroup(part, [p for name, p in parameters.items() if name == f"{letter}.{end}"], rate)
        for end, rate in (("up", 0.4), ("down", 0.1))
        for part, letter in (("unet", "a"), ("text_encoder", "b"))
    ]
    optimizer = make_optimizer(groups, OptimizerConfig(kind=kind))
    restore_optimizer(loaded(tmp_path), optimizer, parameters)
    for name, parameter in parameters.items():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], old.state[before[name]]["exp_avg"])
    if kind == "prodigy":
        found = {group["d"] for group in optimizer.param_groups}
        assert found == {old.param_groups[0]["d"]} and {group["k"] for group in optimizer.param_groups} == {5}
        set_rate(optimizer, 1.0)
        step(parameters, optimizer, 6)


def test_a_state_can_be_restored_twice(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    state, ends = loaded(tmp_path), []
    for _ in range(2):
        parameters = {name: nn.Parameter(value.clone()) for name, value in state.weights.items()}
        optimizer = optimizer_of(parameters)
        restore_optimizer(state, optimizer, parameters)
        step(parameters, optimizer, 4)
        ends.append(parameters)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


# --- the first version ------------------------------------------------------------------------------------------------


def first_version(folder: Path, parameters: Weights, optimizer: Any, number: int) -> None:
    """A state as the first version wrote it."""
    path = folder / f"{number:08d}"
    path.mkdir(parents=True)
    memory = {
        f"{name}|{entry}": value.clone()
        for name, parameter in parameters.items()
        for entry, value in optimizer.state[parameter].items()
    }
    save_file({name: value.detach().clone() for name, value in parameters.items()}, path / "adapter.safetensors")
    save_file(memory, path / "optimizer.safetensors")
    (path / "state.json").write_text(json.dumps({"step": number, "fingerprint": "f"}))
    sums = {file.name: sha256_file(file) for file in sorted(path.iterdir())}
    (path / MANIFEST).write_text(json.dumps(sums))


def test_a_run_of_the_first_version_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole = weights()
    optimizer = optimizer_of(whole)
    for number in range(1, 4):
        step(whole, optimizer, number)
    first_version(tmp_path, whole, optimizer, 3)
    state = loaded(tmp_path)
    assert (state.step, state.facts, state.extra) == (3, {"fingerprint": "f"}, {})
    rest = {name: nn.Parameter(value.clone()) for name, value in state.weights.items()}
    fresh = optimizer_of(rest)
    restore_optimizer(state, fresh, rest)
    for number in range(4, 7):
        step(whole, optimizer, number)
        step(rest, fresh, number)
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_damage_to_a_state_of_the_first_version_is_seen(tmp_path: Path) -> None:
    parameters = weights()
    optimizer = optimizer_of(parameters)
    step(parameters, optimizer, 1)
    first_version(tmp_path, parameters, optimizer, 1)
    flip(tmp_path / "00000001/adapter.safetensors")
    assert newest_state(tmp_path) == (None, ["00000001"])
