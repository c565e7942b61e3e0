"""Bases of every family with adapters of several kinds, through training, test and export."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.detect import detect
from lora_studio.steps import conception, gathering, testing, training
from tests.conftest import draw_picture
from tests.engine.original import tiny_parts, whole_state, write
from tests.tiny import make_base, make_sd2_base, make_sdxl_base

SMALL = {
    "data.resolution": 32, "data.bucket_step": 8, "data.bucket_min": 16, "data.bucket_max": 64, "data.repeats": 1,
    "run.epochs": 1, "run.sample_every_epochs": 0, "adapter.rank": 4, "optimizer.unet_lr": 0.01,
    "run.gradient_accumulation": 1, "data.batch_size": 2, "run.validation_share": 0, "sample.num_steps": 2,
}  # fmt: skip
BASES: dict[str, Callable[[Path], Path]] = {
    "sd1 folder": lambda home: make_base(home / "sd1"),
    "sd2 folder": lambda home: make_sd2_base(home / "sd2"),
    "sdxl folder": lambda home: make_sdxl_base(home / "sdxl"),
    "sdxl file": lambda home: write(
        home / "sdxl.safetensors", whole_state("sdxl", tiny_parts("sdxl", layers=2, vocabulary=49408))
    ),
}


@dataclass(frozen=True)
class Case:
    """A base, what is trained on it, and whether diffusers can load the file."""

    base: str
    kind: str
    optimizer: str
    layers: str
    for_diffusers: bool
    detected: str


CASES = [
    Case("sd1 folder", "lokr", "lion", "attention", False, "lokr"),
    Case("sdxl folder", "dora", "adafactor", "attention", True, "dora"),
    Case("sdxl file", "lora", "came", "all", True, "lora"),
    Case("sd2 folder", "ia3", "schedulefree_adamw", "attention", False, "ia3"),
]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bases ü")
    return {name: make(home) for name, make in BASES.items()}


def project_on(base: Path, root: Path) -> Project:
    plan = Plan(name="Zorbi", trigger="zorbi", base=str(base), test_prompts=("smile",), bleed_prompts=("a dog",))
    project = conception.create(root / "projects", plan)
    pile = root / "pile"
    pile.mkdir(exist_ok=True)
    for seed in range(3):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed, (40, 40)))
    gathering.gather(project, [pile])
    return project


def trained(project: Project, jobs: Jobs, **changes: object) -> str:
    config = training.recommended(project).with_changes({**SMALL, **changes})
    job = jobs.wait(training.start(project, jobs, config).folder, 240)
    assert job.state == "done", (job.error, (job.folder / "log.txt").read_text()[-3000:])
    return job.id


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} on {case.base}")
def test_a_kind_is_trained_tested_and_exported(case: Case, bases: dict[str, Path], tmp_path: Path) -> None:
    project = project_on(bases[case.base], tmp_path)
    jobs = Jobs(project.root)
    changes = {"adapter.kind": case.kind, "adapter.layers": case.layers, "optimizer.kind": case.optimizer}
    trained(project, jobs, **changes)
    (file,) = training.checkpoints(project)
    test = testing.default_config(project).with_changes({"seeds": [1], "strengths": [1.0]})
    assert test.num_steps == 2 and test.size == 64, "as the run drew"
    job = jobs.wait(testing.start(project, jobs, test).folder, 240)
    assert job.state == "done", (job.error, (job.folder / "log.txt").read_text()[-3000:])
    pictures = {cell.checkpoint: (job.folder / cell.file).read_bytes() for cell in testing.cells(test)}
    assert pictures[None] != pictures[file["file"]], "the LoRA changes the picture"
    assert testing.view(project, jobs, job.id)["scorecard"]["variants"]
    checkpoint, why = testing.best_checkpoint(project, jobs)
    assert checkpoint == file["file"] and why
    kohya = testing.export(project, checkpoint)
    found = detect(kohya)
    assert (found.lora_kind, found.problem) == (case.detected, "")
    out = tmp_path / "out.safetensors"
    if case.for_diffusers:
        testing.export(project, checkpoint, out, "diffusers")
        with safe_open(out, "np") as opened:
            assert all(name.startswith(("unet.", "text_encoder")) for name in opened.keys())  # noqa: SIM118
    else:
        with pytest.raises(UserError, match="diffusers cannot load") as caught:
            testing.export(project, checkpoint, out, "diffusers")
        assert "kohya" in caught.value.remedy and not out.exists()


def test_a_test_draws_with_the_base_of_its_run_and_names_one_that_does_not_fit(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    project = project_on(bases["sd1 folder"], tmp_path)
    jobs = Jobs(project.root)
    other = {"base.model": str(bases["sdxl folder"]), "adapter.layers": "attention"}
    run = trained(project, jobs, **other)
    (file,) = training.checkpoints(project)
    assert testing.base_for(project, (file["file"],)).model == str(bases["sdxl folder"])
    (project.folder / "runs" / run / "config.json").rename(tmp_path / "config.json")  # as if it could not be read
    test = testing.TestConfig(checkpoints=(file["file"],), learn_prompts=("zorbi",))
    with pytest.raises(UserError, match=f"epoch 1 of {run} does not fit .*sd1"):
        testing.start(project, jobs, test)
    (tmp_path / "config.json").rename(project.folder / "runs" / run / "config.json")
    second = trained(project, jobs, **{"adapter.layers": "attention"})
    mixed = tuple(found["file"] for found in training.checkpoints(project))
    with pytest.raises(UserError) as caught:
        testing.start(project, jobs, test.with_changes({"checkpoints": mixed}))
    assert f"run {run} was trained on {bases['sdxl folder']}" in caught.value.message and second != run


def test_a_checkpoint_that_cannot_be_drawn_is_named_with_the_base_of_its_run(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    project = project_on(bases["sd1 folder"], tmp_path)
    jobs = Jobs(project.root)
    run = project.folder / "runs" / "old-1"
    file = run / "checkpoints" / "old-1-000003.safetensors"
    file.parent.mkdir(parents=True)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    write(file, {f"{layer}.lora_down.weight": torch.ones(2, 12), f"{layer}.lora_up.weight": torch.ones(12, 2)})
    settings = TrainConfig().with_changes({"base.model": "/gone/model"})
    (run / "config.json").write_text(json.dumps({"settings": settings.to_dict()}))
    test = testing.TestConfig(
        checkpoints=(str(file.relative_to(project.folder)),), learn_prompts=("zorbi",), seeds=(1,), num_steps=1
    )
    failed = jobs.wait(testing.start(project, jobs, test).folder, 240)
    assert failed.state == "failed"
    assert failed.error.startswith("epoch 3 of old-1 does not fit")
    assert "run old-1 was trained on /gone/model" in failed.error
