"""The frozen base spread over two processes: the same training, half of the base in each."""

import gc
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from lora_studio.core.jobs import Follower, JobContext
from lora_studio.engine.config import TrainConfig, TrainJob
from lora_studio.engine.detect import read_header
from lora_studio.engine.distributed import World, run_world
from lora_studio.engine.train import prepare
from lora_studio.engine.trainer import Trainer
from tests.engine.conftest import Recorder, settings
from tests.tiny import make_dataset

CASES: dict[str, dict[str, Any]] = {
    "lora": {"run__sample_every_epochs": 1, "run__epochs": 2},
    "dora in all layers": {"adapter__kind": "dora", "adapter__layers": "all"},
    "pissa": {"adapter__init": "pissa"},
    "loha": {"adapter__kind": "loha"},
    "lokr": {"adapter__kind": "lokr"},
    "glora": {"adapter__kind": "glora"},
    "oft": {"adapter__kind": "oft", "adapter__rank": 4},
    "boft": {"adapter__kind": "boft", "adapter__rank": 4},
    "ia3": {"adapter__kind": "ia3"},
    "full checkpointing": {"run__gradient_checkpointing": "full", "adapter__kind": "dora"},
    "selective checkpointing": {"run__gradient_checkpointing": "selective"},
    "preservation": {"objective__preservation": 0.5, "run__gradient_checkpointing": "full"},
    "text part": {"optimizer__text_encoder_lr": 1e-3, "run__gradient_accumulation": 2, "run__epochs": 2},
    "sdxl": {"run__gradient_checkpointing": "full", "run__sample_every_epochs": 1},
}
Found = dict[str, Any]
"""What came of a run: losses, validations, weights, notes, samples, bytes."""


def config_of(case: str, shard: bool, batch: int, **more: Any) -> TrainConfig:
    plain = {"optimizer__unet_lr": 1e-2, "run__save_precision": "fp32", "data__flip": True, "run__epochs": 1}
    return settings(**{**plain, **CASES[case], **more}, run__shard=shard, data__batch_size=batch)


def bytes_alive() -> int:
    """Of all tensors of this process."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), Tensor)]
    plain = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in plain}
    return sum(storages.values())


def run(
    folder: Path, config: TrainConfig, base: Path, world: World, resume: bool = False, measure: bool = False
) -> Found:
    """One training as one process sees it; the processes share the cache."""
    torch.set_num_threads(1)
    before = bytes_alive() if measure else 0
    told = Recorder(folder) if world.leads else Follower(folder)
    data, cache = folder.parent / "data" / "dataset.json", folder.parent / f"cache {base.name}"
    job = TrainJob(
        settings=config, base=str(base), dataset=str(data), cache=str(cache), name="zorbi", trigger="zorbi",
        resume=resume,
    )  # fmt: skip
    trainer = prepare(job, told, world)
    trainer.run()
    return answer(trainer, told, bytes_alive() - before if measure else 0)


def answer(trainer: Trainer, told: JobContext, alive: int) -> Found:
    if not isinstance(told, Recorder):
        return {"alive": alive}
    files = sorted((told.folder / "checkpoints").glob("*.safetensors"))
    return {
        "losses": [event["loss"] for event in told.of("Step")],
        "validations": [event["loss"] for event in told.of("Validation")],
        "weights": load_file(files[-1]),  # numpy's arrays travel between processes better than tensors
        "notes": " ".join(event["text"] for event in told.of("Note")),
        "samples": {path.name: path.read_bytes() for path in sorted(told.folder.glob("samples/*.png"))},
        "alive": alive,
        "steps": trainer.step,
    }


def ask(world: World, home: Path, bases: dict[str, Path]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for case in CASES:
        base = bases["sdxl" if case == "sdxl" else "sd"]
        found[case] = run(home / case, config_of(case, True, 2), base, world)
    half, end = ({"run__epochs": count, "run__sample_every_epochs": 0} for count in (1, 2))
    found["spread"] = run(home / "resumed", config_of("lora", True, 2, **half), bases["sd"], world, measure=True)
    found["whole"] = run(home / "whole", config_of("lora", False, 2, **half), bases["sd"], world, measure=True)
    found["resumed"] = run(home / "resumed", config_of("lora", True, 2, **end), bases["sd"], world, resume=True)
    found["samples failed"] = run_with_broken_samples(home / "broken", bases["sd"], world)
    return found


def run_with_broken_samples(folder: Path, base: Path, world: World) -> Found:
    """The leader's second pass through the network while drawing ends in the middle, as when memory ends there."""
    torch.set_num_threads(1)
    told = Recorder(folder) if world.leads else Follower(folder)
    job = TrainJob(
        settings=config_of("lora", True, 2), base=str(base), dataset=str(folder.parent / "data" / "dataset.json"),
        cache=str(folder.parent / f"cache {base.name}"), name="zorbi", trigger="zorbi",
    )  # fmt: skip
    trainer = prepare(job, told, world)
    passes = 0
    drawing = False
    draw = trainer.draw

    def watch(*_: Any) -> None:
        nonlocal passes
        passes += drawing
        if drawing and passes % 2 == 0:
            raise MemoryError

    def watched(step: int, epoch: int) -> None:
        nonlocal drawing
        drawing = True
        try:
            draw(step, epoch)
        finally:
            drawing = False

    trainer.family.part("unet").up_blocks[0].resnets[0].register_forward_pre_hook(watch)
    trainer.draw = watched
    trainer.run()
    return answer(trainer, told, 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread")
    make_dataset(folder / "data", [(32, 32)] * 4 + [(24, 40)])  # the last is a batch for one process alone
    return folder


@pytest.fixture(scope="module")
def bases(base: Path, sdxl_base: Path) -> dict[str, Path]:
    return {"sd": base, "sdxl": sdxl_base}


@pytest.fixture(scope="module")
def found(home: Path, bases: dict[str, Path]) -> dict[str, Found]:
    """What the leader of one world of two answers for all cases: to start processes takes seconds."""
    return run_world(ask, (home, bases), 2)


@pytest.mark.parametrize("case", CASES)
def test_a_spread_base_trains_as_one_process_with_twice_the_batch(case, found, home, bases):
    base = bases["sdxl" if case == "sdxl" else "sd"]
    alone, spread = run(home / f"{case} alone", config_of(case, False, 4), base, World()), found[case]
    assert "spread over 2 devices" in spread["notes"] and "spread" not in alone["notes"]
    assert spread["losses"] == pytest.approx(alone["losses"], abs=1e-5) and len(alone["losses"]) >= 2
    assert spread["validations"] == pytest.approx(alone["validations"], abs=1e-5)
    assert spread["weights"].keys() == alone["weights"].keys()
    for name, tensor in alone["weights"].items():
        assert np.abs(spread["weights"][name] - tensor).max() < 5e-4, name
    assert spread["samples"].keys() == alone["samples"].keys()


def test_each_process_holds_half_of_the_base_between_steps(found, base):
    shapes, _ = read_header(base / "unet" / "diffusion_pytorch_model.safetensors")
    whole = 4 * sum(math.prod(shape) for shape in shapes.values())
    saved = found["whole"]["alive"] - found["spread"]["alive"]
    assert saved == pytest.approx(whole / 2, rel=0.1)


def test_a_spread_run_goes_on_from_its_state_as_if_it_had_not_ended(found):
    straight, resumed = found["lora"], found["resumed"]
    assert "Resumed after step" in resumed["notes"]
    assert [*found["spread"]["losses"], *resumed["losses"]] == pytest.approx(straight["losses"], abs=1e-6)
    assert all(np.array_equal(resumed["weights"][name], value) for name, value in straight["weights"].items())


def test_drawing_that_fails_in_the_middle_of_a_pass_does_not_end_a_spread_run(found):
    straight, failed = found["lora"], found["samples failed"]
    assert "not enough memory to draw" in failed["notes"] and not failed["samples"] and straight["samples"]
    assert failed["losses"] == straight["losses"] and failed["validations"] == straight["validations"]
