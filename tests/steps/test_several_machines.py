"""A run that somebody starts in several processes, as torchrun does it on several machines."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Job, Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.state import newest_state
from lora_studio.steps import gathering, training
from tests.conftest import draw_picture

SMALL = {
    "data.resolution": 32, "data.bucket_step": 8, "data.bucket_min": 16, "data.bucket_max": 64, "data.repeats": 1,
    "run.epochs": 2, "run.sample_every_epochs": 0, "run.save_every_epochs": 0, "adapter.rank": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    home = tmp_path_factory.mktemp("machines")
    project = Project.create(home / "projects ü", Plan(name="Zorbi", trigger="zorbi", base=str(tiny_base)))
    (home / "pile").mkdir()
    for seed in range(4):
        (home / "pile" / f"{seed}.png").write_bytes(draw_picture(seed, (40, 40)))
    gathering.gather(project, [home / "pile"])
    return project


def settings(project: Project, batch: int) -> TrainConfig:
    return TrainConfig().with_changes({"base.model": project.plan.base, **SMALL, "data.batch_size": batch})


def in_two_processes(
    folder: Path, more: dict[str, str] | None = None, program: list[str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """The second process of the job and the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    place |= {"OMP_NUM_THREADS": "1", **(more or {})}
    command = [sys.executable, *(program or ["-m", "lora_studio.core.jobs"]), str(folder)]
    children = [
        subprocess.Popen(
            command, env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in ("1", "0")
    ]  # fmt: skip
    try:
        said = [child.communicate(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    return [
        subprocess.CompletedProcess(command, child.returncode, out, err)
        for child, (out, err) in zip(children, said, strict=True)
    ]


def weights(job: Job) -> dict[str, torch.Tensor]:
    (file,) = (job.folder / "checkpoints").glob("*.safetensors")
    return {name: tensor.float() for name, tensor in load_file(file).items()}


def test_two_started_processes_make_one_record_and_train_as_one_with_twice_the_batch(project: Project) -> None:
    jobs = Jobs(project.root)
    alone = jobs.wait(training.start(project, jobs, settings(project, 4)).folder, 240)
    prepared = training.start(project, jobs, settings(project, 2), prepare=True)
    assert (prepared.state, prepared.pid) == ("stopped", 0) and not (prepared.folder / "events.jsonl").exists()
    for done in in_two_processes(prepared.folder):
        assert done.returncode == 0, done.stderr[-3000:]
    together = jobs.get(prepared.folder)
    assert alone.state == together.state == "done", alone.error
    told = together.events()[0]
    assert [event["step"] for event in told if event["event"] == "Step"] == [1, 2]
    assert [event["event"] for event in told].count("Finished") == 1
    assert together.summary["steps"] == 2
    one, two = weights(alone), weights(together)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)  # files are fp16
    assert any(tensor.any() for name, tensor in one.items() if "lora_up" in name)


def test_a_prepared_run_that_fails_leaves_its_error_in_the_record_once(project: Project) -> None:
    jobs = Jobs(project.root)
    job = training.start(project, jobs, settings(project, 2), prepare=True)
    first = json.loads((job.folder / "dataset.json").read_text())["images"][0]
    gone = {**first, "file": "gone.png", "sha256": "0" * 64}
    (job.folder / "dataset.json").write_text(json.dumps({"images": [gone]}))
    assert [done.returncode for done in in_two_processes(job.folder)] == [1, 1]
    failed = jobs.get(job.folder)
    assert failed.state == "failed" and "gone.png" in failed.error
    assert [event["event"] for event in failed.events()[0]].count("Failed") == 1
    with pytest.raises(UserError, match="no job"):
        jobs.get(job.folder / "nowhere")


def test_a_prepared_run_can_be_started_by_the_studio_itself(project: Project) -> None:
    jobs = Jobs(project.root)
    job = training.start(project, jobs, settings(project, 4), prepare=True)
    assert jobs.wait(training.resume(project, jobs, job.id).folder, 240).state == "done"


def test_accelerates_setup_for_a_model_in_parts_spreads_the_base_and_makes_the_same_lora(project: Project) -> None:
    jobs = Jobs(project.root)
    alone = jobs.wait(training.start(project, jobs, settings(project, 4)).folder, 240)
    prepared = training.start(project, jobs, settings(project, 2), prepare=True)
    asked = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    for done in in_two_processes(prepared.folder, asked):
        assert done.returncode == 0, done.stderr[-3000:]
    together = jobs.get(prepared.folder)
    told = " ".join(event["text"] for event in together.events()[0] if event["event"] == "Note")
    assert together.state == "done" and "DeepSpeed itself is not used" in told and "spread over 2 devices" in told
    one, two = weights(alone), weights(together)
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)  # files are fp16


def steps(job: Job) -> list[int]:
    return [event["step"] for event in job.events()[0] if event["event"] == "Step"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_a_shutdown_of_all_processes_saves_and_the_run_goes_on_after_it(project: Project) -> None:
    """SIGTERM to torchrun reaches all of its processes, as on a shutdown."""
    jobs = Jobs(project.root)
    long = settings(project, 2).with_changes({"run.epochs": 10_000})
    job = training.start(project, jobs, long, prepare=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "lora_studio.core.jobs", str(job.folder),
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while len(steps(job)) < 3 and launcher.poll() is None:
            time.sleep(0.1)
        launcher.send_signal(signal.SIGTERM)
        said, _ = launcher.communicate(timeout=120)
    finally:
        launcher.kill()
    stopped = jobs.get(job.folder)
    assert stopped.state == "stopped", said[-3000:]
    last = steps(stopped)[-1]
    assert newest_state(job.folder / "state")[0].step == last == stopped.summary["steps"] < 10_000
    training.resume(project, jobs, job.id, {"run.epochs": last + 2}, prepare=True)
    for done in in_two_processes(job.folder):
        assert done.returncode == 0, done.stderr[-3000:]
    done = jobs.get(job.folder)
    assert done.state == "done" and steps(done) == list(range(1, last + 3))


BREAKING = """
import sys
from pathlib import Path
import lora_studio.engine.train as train
from lora_studio.core import jobs
from lora_studio.core.errors import UserError

def breaks(self, *arguments):
    if self.step == 1 and not self.world.leads:
        raise UserError('picture-3.png cannot be read.', 'Replace it.')
    return whole(self, *arguments)

whole = train.Trainer.train_step
train.Trainer.train_step = breaks
sys.exit(jobs._child(Path(sys.argv[1])))
"""


def test_the_record_tells_what_went_wrong_in_another_process(project: Project, tmp_path: Path) -> None:
    jobs = Jobs(project.root)
    job = training.start(project, jobs, settings(project, 2), prepare=True)
    (tmp_path / "breaking.py").write_text(BREAKING)
    follower, leader = in_two_processes(job.folder, program=[str(tmp_path / "breaking.py")])
    assert [follower.returncode, leader.returncode] == [1, 1]
    failed = jobs.get(job.folder)
    assert failed.state == "failed" and failed.error == "picture-3.png cannot be read.", leader.stderr[-3000:]
    assert failed.remedy == "Replace it." and steps(failed) == [1]
    assert [event["event"] for event in failed.events()[0]].count("Failed") == 1
