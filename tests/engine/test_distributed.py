import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext, Jobs
from lora_studio.core.progress import Note
from lora_studio.engine import distributed
from lora_studio.engine.distributed import Follower, World, average_gradients, launch, run_world


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (count, 6) and answers (count, 3), the same in every process."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 6, generator=generator), torch.randn(count, 3, generator=generator)


def loss_of(net: nn.Module, rows: slice, count: int) -> torch.Tensor:
    x, y = pictures(count)
    return (net(x[rows]) - y[rows]).square().mean()


def train_share(world: World, cuts: list[int]) -> tuple[list[torch.Tensor], float]:
    """One gradient of pictures cut at `cuts`: process r has those from cuts[r] to cuts[r + 1]."""
    net = network()
    rows, count = slice(cuts[world.rank], cuts[world.rank + 1]), cuts[world.rank + 1] - cuts[world.rank]
    loss = loss_of(net, rows, cuts[-1])
    if count:
        loss.backward()
    average_gradients(list(net.parameters()), world, count)
    return [p.grad for p in net.parameters()], distributed.mean(loss.detach(), world, count)


CUTS = {"even": [0, 4, 8], "uneven": [0, 5, 8], "all in the first": [0, 8, 8]}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the leader of one world of two answers to all questions below: to start processes takes seconds."""
    return run_world(ask, (), 2)


def ask(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {name: train_share(world, cuts) for name, cuts in CUTS.items()}
    for question in (accumulate, gradients_for_some, speak_with_one_voice):
        found[question.__name__] = question(world)
    return found


@pytest.mark.parametrize("name", CUTS)
def test_two_processes_learn_what_one_with_the_whole_batch_learns(answers, name):
    gradients, loss = answers[name]
    alone = network()
    whole = loss_of(alone, slice(0, 8), 8)
    whole.backward()
    assert loss == pytest.approx(whole.item(), abs=1e-6)
    for gradient, parameter in zip(gradients, alone.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-6)


def accumulate(world: World) -> list[torch.Tensor]:
    """Several uneven batches gathered into one step; batches[i][rank] are the rows of a process."""
    batches = [[slice(0, 3), slice(3, 4)], [slice(4, 6), slice(6, 8)]]
    net = network()
    parts = distributed.shares([rows[world.rank].stop - rows[world.rank].start for rows in batches], world)
    for rows, share in zip(batches, parts, strict=True):
        (loss_of(net, rows[world.rank], 8) * share / len(batches)).backward()
    distributed.sum_gradients(list(net.parameters()), world)
    return [p.grad for p in net.parameters()]


def test_gathered_batches_of_uneven_size_weigh_as_in_one_process(answers):
    gradients = answers["accumulate"]
    alone = network()
    for rows in (slice(0, 4), slice(4, 8)):
        (loss_of(alone, rows, 8) / 2).backward()
    for gradient, parameter in zip(gradients, alone.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-6)


def gradients_for_some(world: World) -> list[bool]:
    first, second, third = (nn.Parameter(torch.ones(2)) for _ in range(3))
    (first if world.rank else second).sum().backward()
    average_gradients([first, second, third], world)
    return [parameter.grad is not None for parameter in (first, second, third)]


def test_only_a_parameter_that_no_process_used_has_no_gradient(answers):
    assert answers["gradients_for_some"] == [True, True, False]


def speak_with_one_voice(world: World) -> tuple[bool, list[str], float]:
    weights = torch.full((3,), float(world.rank + 1))
    distributed.broadcast_parameters([weights], world)
    stops = distributed.agree(world.rank == 0, world)  # only the leader was told to stop
    words = distributed.agree(["save"] if world.leads else [], world)
    everywhere = distributed.mean(float(stops and words == ["save"] and weights.sum().item() == 3), world)
    return stops, words, everywhere


def test_the_leaders_stop_commands_and_weights_reach_all(answers):
    assert answers["speak_with_one_voice"] == (True, ["save"], 1.0)


def fail_in_the_second(world: World, how: str) -> None:
    distributed.barrier(world)
    if world.rank == 1 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if world.rank == 1:
        raise UserError("picture-3.png cannot be read.", "Replace it.") if how == "user" else KeyError("weights")
    while True:
        distributed.barrier(world)  # would wait for ever
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("user", UserError, "picture-3.png cannot be read. Replace it."),
        ("fault", RuntimeError, "KeyError: 'weights'"),
        ("killed", UserError, "process 2 of 2 was ended from outside (exit code -9)"),
    ],
)
def test_the_error_of_one_process_ends_all_and_is_told_once(how, kind, text):
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        run_world(fail_in_the_second, (how,), 2)
    assert text in str(caught.value)
    assert how == "killed" or "fail_in_the_second" in "".join(caught.value.__notes__)
    assert time.monotonic() - start < 60


def test_processes_do_not_outlive_the_job(tmp_path):
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.engine.test_distributed import write_pid_and_wait\n"
        "from lora_studio.engine.distributed import run_world\n"
        f"if __name__ == '__main__': run_world(write_pid_and_wait, ({str(tmp_path)!r},), 2)\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    job = subprocess.Popen([sys.executable, script], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    job.kill()
    job.wait()
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def write_pid_and_wait(world: World, folder: str) -> None:
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(600)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def job(config: dict, context: JobContext, world: World) -> list[int]:
    """A job: each process tells that it is there; the leader answers with all places."""
    context.report(Note(f"process {world.rank}"))
    return [world.rank, world.size, round(distributed.mean(world.rank * config["factor"], world) * 2)]


def test_a_job_runs_in_all_processes_and_only_the_leader_reports(tmp_path):
    assert launch(job, {"factor": 3}, JobContext(tmp_path), 2, "cpu") == [0, 2, 3]
    assert [line.count("process 0") for line in (tmp_path / "events.jsonl").read_text().splitlines()] == [1]


def test_a_job_on_one_device_starts_no_process(tmp_path):
    pids = []
    launch(lambda *_: pids.append(os.getpid()), {}, JobContext(tmp_path), 1, "cpu")
    assert pids == [os.getpid()]


def test_a_follower_says_nothing_and_obeys_nobody(tmp_path):
    (tmp_path / "commands").write_text("stop\nsave\n")
    follower = Follower(tmp_path)
    follower.report(Note("here"))
    assert not follower.should_stop() and follower.commands() == [] and not (tmp_path / "events.jsonl").exists()


def test_a_job_started_by_accelerate_takes_the_place_that_it_is_given(tmp_path):
    code = (
        "import json, sys; from pathlib import Path\n"
        "from lora_studio.core.jobs import JobContext\n"
        "from lora_studio.engine.distributed import launch, launched_precision\n"
        "from tests.engine.test_distributed import job\n"
        "answer = launch(job, {'factor': 3}, JobContext(Path(sys.argv[1])), 1, 'cpu')\n"
        "Path(sys.argv[1], f'{answer[0]}.json').write_text(json.dumps([answer, launched_precision()]))\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    # `accelerate launch` starts several processes on a CPU by MPI only; with GPUs it runs this, with these variables.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, tmp_path]
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **asked, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"{rank}.json").read_text() for rank in (0, 1)] == [
        '[[0, 2, 3], "bf16"]',
        '[[1, 2, 3], "bf16"]',
    ]
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "shard", "words"),
    [
        ({"USE_FSDP": "true"}, True, "FSDP2"),
        ({"USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, True, "offloading to main memory is not used"),
        ({"USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "NO_SHARD"}, False, "stays whole"),
        ({"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "3"}, True, "DeepSpeed itself is not used"),
        ({"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "2"}, False, "result is the same"),
        ({"USE_DEEPSPEED": "true", "DEEPSPEED_CONFIG_FILE": "stage 3"}, True, "stage 3"),
        ({}, False, ""),
    ],
)
def test_what_accelerates_setup_means_is_done_and_told(asked, shard, words, monkeypatch, tmp_path):
    (tmp_path / "stage 3").write_text('{"zero_optimization": {"stage": 3}}')
    monkeypatch.chdir(tmp_path)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", **asked}.items():
        ours = name.startswith(("USE", "DEEPSPEED"))
        monkeypatch.setenv(f"ACCELERATE_{name}" if ours else name, value)
    found, notes = distributed.launched_sharding()
    assert found is shard and words in " ".join(notes) and bool(notes) == bool(words)


def unlucky(config: dict, context: JobContext) -> None:
    """A job whose second process fails or is killed, while the first waits for it or for nothing."""
    distributed.NOTICE = config["notice"]
    launch(fail_as_asked, config, context, 1, "cpu")


def fail_as_asked(config: dict, context: JobContext, world: World) -> None:
    if world.leads and config["how"] == "unnoticed":
        time.sleep(10_000)  # as on GPUs, where nothing tells that the other one has gone
    if world.rank == 1 and config["how"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if world.rank == 1:
        raise KeyError("weights")
    distributed.barrier(world)


@pytest.mark.parametrize(
    ("how", "notice", "error"),
    [
        ("fault", 60, "KeyError: 'weights'"),
        ("unnoticed", 0, "KeyError: 'weights'"),
        ("killed", 60, "Another process of this run has ended without a word."),
    ],
)
def test_the_record_of_a_started_job_tells_the_error_of_its_second_process(how, notice, error, tmp_path):
    jobs = Jobs(tmp_path)
    target, config = "tests.engine.test_distributed:unlucky", {"how": how, "notice": notice}
    folder = jobs.prepare(tmp_path / "project" / "runs" / "run", target, config, "run").folder
    (folder / "error-1.json").write_text('{"time": 0, "message": "That was another time.", "remedy": ""}')
    root = Path(__file__).parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    place |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lora_studio.core.jobs", str(folder)]
    children = [
        subprocess.Popen(command, cwd=root, env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    try:
        codes = [child.wait(240) for child in children]
    finally:
        for child in children:
            child.kill()
    failed = jobs.get(folder)
    assert codes == [1, -9 if how == "killed" else 1] and failed.state == "failed" and error in failed.error


def test_a_broken_config_of_deepspeed_is_named(monkeypatch, tmp_path):
    (tmp_path / "setup.json").write_text("no JSON")
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "setup.json"))
    with pytest.raises(UserError, match="stage of DeepSpeed"):
        distributed.launched_sharding()


def test_megatron_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", "true")
    with pytest.raises(UserError, match="Megatron"):
        distributed.join_launched()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
def test_more_devices_than_there_are_is_refused():
    assert distributed.number_of_processes(0, "cpu") == distributed.number_of_processes(1, "cpu") == 1
    with pytest.raises(UserError, match=r"run\.devices 2"):
        distributed.number_of_processes(2, "cpu")
