"""Whole runs over families, adapters and optimizers: exact on resuming, in the file, and in two processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_studio.engine.config import SampleRequest, TrainJob
from lora_studio.engine.sampling import sample_images
from lora_studio.engine.train import prepare, train
from tests import findings
from tests.engine.conftest import Recorder, settings
from tests.engine.test_train import StopAfter, last_state, same, trained
from tests.tiny import EPSILON, VELOCITY, make_base, make_dataset, make_sd2_base, make_sdxl_base

KINDS = ("lora", "dora", "loha", "lokr", "ia3", "oft", "boft", "glora")
OPTIMIZERS = (
    "adamw", "adafactor", "lion", "came", "prodigy", "schedulefree_adamw", "schedulefree_prodigy", "stable_adamw",
    "muon",
)  # fmt: skip
RATE = {"prodigy": 1.0, "schedulefree_prodigy": 1.0}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        "sd1": make_base(folder / "sd1", **EPSILON),
        "sd2": make_sd2_base(folder / "sd2"),
        "sdxl": make_sdxl_base(folder / "sdxl"),
        "sdxl v zsnr": make_sdxl_base(folder / "sdxl-v", **VELOCITY),
    }


def job_for(base: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return TrainJob(
        settings=settings(**changes),
        base=str(base),
        dataset=str(make_dataset(folder / "data")),
        cache=str(folder / "cache"),
        name="zorbi",
        trigger="zorbi",
    ).to_dict()


def resumes_exactly(config: dict[str, Any], folder: Path, stop: int = 3) -> bool:
    whole, _ = trained(config, folder / "whole")
    train(config, StopAfter(folder / "parts", stop))
    _, told = trained({**config, "resume": True}, folder / "parts")
    assert told.of("Step")[0]["step"] == stop + 1
    files = [next((folder / run / "checkpoints").glob("*-000003.safetensors")) for run in ("whole", "parts")]
    return same(whole, last_state(folder / "parts")) and same(*map(load_file, files))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl v zsnr"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_bit_for_bit_and_its_file_draws_what_was_trained(
    family: str, kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    second = 0.01 if "sdxl" in family else 0
    layers = "all" if kind in ("lora", "dora", "loha") else "attention"
    config = job_for(
        bases[family], tmp_path, adapter__kind=kind, adapter__layers=layers, adapter__rank=4, optimizer__unet_lr=0.02,
        optimizer__text_encoder_2_lr=second, run__epochs=3, data__batch_size=2, run__sample_every_epochs=3,
        sample__prompts=["zorbi, smile"], sample__sampler="euler",
    )  # fmt: skip
    assert resumes_exactly(config, tmp_path)
    from PIL import Image

    request = SampleRequest(
        path="x", prompt="zorbi, smile", lora=str(tmp_path / "whole/checkpoints/zorbi-000003.safetensors"),
        width=32, height=32, num_steps=2, guidance=5.0, sampler="euler", seed=1,
    )  # fmt: skip
    bare = request.model_copy(update={"lora": None})
    with Image.open(tmp_path / "whole/samples/00000006-0.png") as memory:
        (drawn, base) = sample_images(bases[family], [request, bare])
        found = difference(drawn, memory)
        assert found <= 6 and difference(base, memory) > found  # fp16 file against fp32 memory
    findings.found("runs: resumed bit for bit, and the file draws what was trained", kind, family, "yes")


def difference(one: Any, other: Any) -> float:
    import numpy as np

    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).max())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_and_resumes_bit_for_bit(optimizer: str, bases: dict[str, Path], tmp_path: Path) -> None:
    rate = RATE.get(optimizer, 2e-3)
    config = job_for(
        bases["sd1"], tmp_path, optimizer__kind=optimizer, optimizer__unet_lr=rate, optimizer__text_encoder_lr=rate,
        run__epochs=3,
    )  # fmt: skip
    assert resumes_exactly(config, tmp_path)
    findings.found("optimizers", optimizer, "a run resumes exactly", "yes")


@pytest.mark.parametrize(
    "change",
    [
        {"adapter__precision": "bf16"}, {"run__ema_decay": 0.9}, {"adapter__rank_dropout": 0.3},
        {"adapter__module_dropout": 0.3}, {"objective__preservation": 0.5}, {"optimizer__lora_plus_ratio": 8},
        {"data__random_crop": True}, {"data__color_jitter": 0.2}, {"data__more_resolutions": [48]},
        {"adapter__init": "pissa"}, {"adapter__init": "olora"},
    ],
    ids=str,
)  # fmt: skip
def test_what_adds_chance_or_memory_resumes_bit_for_bit_too(
    change: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    assert resumes_exactly(job_for(bases["sd1"], tmp_path, run__epochs=3, **change), tmp_path)


def test_losses_are_those_of_the_first_version(tmp_path: Path) -> None:
    """Pinned: a change of these numbers is a change of training, and must be meant."""
    pinned = {
        "velocity": [0.480667, 0.079901, 0.11764, 0.563258, 0.506402, 0.419573, 0.215329, 0.016345, 0.073914],
        "epsilon": [0.532714, 1.280857, 1.168897, 1.07782, 1.217176, 1.094765, 1.259627, 1.258033, 1.117261],
    }
    for name, scheduler in (("velocity", VELOCITY), ("epsilon", EPSILON)):
        base = make_base(tmp_path / name, **scheduler)
        config = settings(
            run__epochs=3, data__batch_size=2, data__flip=True, adapter__dropout=0.1, objective__noise_offset=0.05,
            data__tag_dropout=0.3,
        )  # fmt: skip
        job = TrainJob(
            settings=config, base=str(base), cache=str(tmp_path / "cache"), name="z", trigger="zorbi",
            dataset=str(make_dataset(tmp_path / "data", [(32, 32)] * 3 + [(48, 24)] * 2)),
        )  # fmt: skip
        told = Recorder(tmp_path / f"run-{name}")
        train(job.to_dict(), told)
        assert [event["loss"] for event in told.of("Step")] == pytest.approx(pinned[name], abs=2e-5)


def test_two_processes_train_as_one_with_twice_the_batch(bases: dict[str, Path], tmp_path: Path) -> None:
    one = job_for(bases["sd1"], tmp_path, data__batch_size=4, run__epochs=3, adapter__dropout=0.0)
    two = {**job_for(bases["sd1"], tmp_path, data__batch_size=2, run__epochs=3), "world": 2}
    _, alone = trained(one, tmp_path / "one")
    train(two, Recorder(tmp_path / "two"))  # the two tell in the job's folder
    events = [json.loads(line) for line in (tmp_path / "two/events.jsonl").read_text("utf-8").splitlines()]
    together = [event["loss"] for event in events if event["event"] == "Step"]
    losses = [[event["loss"] for event in alone.of("Step")], together]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], abs=1e-6)
    weights = [last_state(tmp_path / name) for name in ("one", "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-6) for key in weights[0])


def test_preservation_holds_the_base_where_the_trigger_is_not_named(bases: dict[str, Path], tmp_path: Path) -> None:
    """The change of an unrelated prompt is smaller with it than without, at the same training."""
    moved = {}
    for weight in (0.0, 3.0):
        folder = tmp_path / str(weight)
        config = job_for(
            bases["sd1"], folder, objective__preservation=weight, run__epochs=20, optimizer__unet_lr=5e-3,
            data__batch_size=4, optimizer__text_encoder_lr=0, objective__preservation_prompts=["a tree"],
        )  # fmt: skip
        trainer = prepare(TrainJob.load(config), Recorder(folder / "run"))
        for _ in range(20):
            trainer.train_step()
        shape = trainer.latents.get(trainer.sampler.training[0]).shape
        noisy = torch.randn(4, *shape, generator=torch.manual_seed(0))
        times, frames = torch.tensor([100, 400, 700, 900]), torch.tensor([[32, 32, 0, 0, 32, 32]] * 4)
        with torch.no_grad():
            after = trainer.answer(noisy, times, ["a tree"] * 4, frames)
            with trainer.adapter.off():
                before = trainer.answer(noisy, times, ["a tree"] * 4, frames)
        moved[weight] = (after - before).square().mean().item()
    assert moved[3.0] < 0.7 * moved[0.0]


SETTINGS: list[dict[str, Any]] = [
    {"adapter__conv_rank": 3, "adapter__layers": "all"}, {"adapter__conv_alpha": 3.0, "adapter__layers": "all"},
    {"adapter__rs_lora": True}, {"adapter__include": ["up_blocks"]}, {"adapter__exclude": ["up_blocks"]},
    {"adapter__ranks": ["up_blocks=4"]}, {"optimizer__rates": ["up_blocks=3"]}, {"optimizer__lora_plus_ratio": 4},
    {"optimizer__kind": "lion"}, {"schedule__kind": "rex"}, {"schedule__kind": "one_cycle"},
    {"schedule__kind": "polynomial"}, {"schedule__kind": "linear", "schedule__end": 0.5},
    {"schedule__warmup_steps": 3}, {"data__color_jitter": 0.3},
    {"data__more_resolutions": [48]}, {"objective__weighting": "debiased"},
    {"objective__weighting": "p2"}, {"objective__loss": "huber"}, {"objective__loss": "smooth_l1"},
    {"objective__multires_iterations": 3}, {"objective__input_perturbation": 0.2}, {"objective__timestep_min": 500},
    {"objective__timestep_max": 300}, {"objective__timestep_distribution": "logit_normal"},
    {"objective__timestep_distribution": "style"}, {"objective__timestep_distribution": "content"},
    {"objective__preservation": 1.0}, {"run__ema_decay": 0.5}, {"run__quantize": "int8"}, {"run__quantize": "fp8"},
    {"run__save_precision": "fp32"}, {"run__save_precision": "bf16"},
    {"base__prediction": "epsilon"}, {"base__zero_terminal_snr": "no"}, {"adapter__precision": "bf16"},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    folder = tmp_path_factory.mktemp("plain runs")
    job = job_for(base, folder, run__epochs=3)
    run = folder / "run"
    train(job, Recorder(run))
    return job, load_file(run / "checkpoints/zorbi-000003.safetensors")


@pytest.mark.parametrize("change", SETTINGS, ids=lambda change: " ".join(f"{k}={v}" for k, v in change.items()))
def test_each_setting_changes_the_file(change: dict[str, Any], plain: Any, tmp_path: Path) -> None:
    job, before = plain
    train({**job, "settings": settings(run__epochs=3, **change).to_dict()}, Recorder(tmp_path / "run"))
    after = load_file(tmp_path / "run/checkpoints/zorbi-000003.safetensors")
    assert not same(before, after)


@pytest.mark.parametrize(
    "change",
    [{"run__gradient_checkpointing": "full"}, {"run__gradient_checkpointing": "selective"}, {"run__offload_blocks": 2},
     ],
    ids=str,
)  # fmt: skip
def test_what_only_saves_memory_or_time_changes_no_weight(change: dict[str, Any], plain: Any, tmp_path: Path) -> None:
    job, before = plain
    train({**job, "settings": settings(run__epochs=3, **change).to_dict()}, Recorder(tmp_path / "run"))
    after = load_file(tmp_path / "run/checkpoints/zorbi-000003.safetensors")
    assert all(torch.allclose(before[name].float(), after[name].float(), atol=1e-4) for name in before)


def test_a_lora_is_continued_from_a_file(make_job: Callable, tmp_path: Path) -> None:
    train(make_job(run__epochs=2), Recorder(tmp_path / "first"))
    file = tmp_path / "first/checkpoints/zorbi-000002.safetensors"
    trainer = prepare(TrainJob.load(make_job(adapter__continue_from=str(file))), Recorder(tmp_path / "second"))
    assert same(load_file(file), trainer.adapter.tensors(torch.float16))
