"""Speed and memory of a training step, beside the smallest diffusers + peft loop and any peer.

    python -m benchmarks.training --case starter [--steps 20] [--threads 1] [--contended]
    python -m benchmarks.training --case sd15-256-fp32 --case sd15-256-auto --steps 40
    python -m benchmarks.training --gpu
    python -m benchmarks.training --peer "other=python peer.py {base} {data} {resolution} {batch} {steps}"

Engine and minimal loop train the same layers of the same base with the same optimizer in one process and take turns
step by step, A B B A, so that other work on the machine slows both alike and neither always comes after the other. Told
is the median of the pairs' ratios with its bootstrap interval, of wall time and of processor time, which other programs
disturb less. Which one is slower is decided only when the interval leaves out 1: take more steps. Memory is taken from
a run of each alone. The minimal loop (the floor) has random latents and text states, no buckets, captions, records or
checks.

A peer is NAME=COMMAND; the command finds the base's folder, a folder of pictures with .txt captions, side, batch and
number of steps in its braces, trains a LoRA of rank 8 on the UNet's attention and feed-forward layers, and prints the
seconds of each step on a line of their own. It runs by itself, just after the others.

Large bases have random weights in the published sizes (speed does not depend on them); they are made once, in --bases.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import psutil
import torch
from platformdirs import user_cache_path
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bases
from benchmarks.common import interval, machine, markdown, ratio, save
from benchmarks.minimal import LORA, Case, Step, minimal
from lora_studio.core import paths
from lora_studio.core.jobs import JobContext
from lora_studio.demo import peak_memory
from lora_studio.engine.config import TrainJob
from lora_studio.engine.train import prepare
from lora_studio.engine.trainer import Trainer

R16 = {"adapter.rank": 16, "adapter.alpha": 8.0}


CASES = {
    "starter": Case("starter", 128, 4, LORA, trains_text=True),
    "sd15-256-fp32": Case("sd15", 256, 1, LORA | {"run.precision": "fp32"}),
    "sd15-256-auto": Case("sd15", 256, 1, LORA),
}
GPU_CASES = {
    f"{base}-{side}-b{batch}-{kind}": Case(base, side, batch, R16 | {"adapter.kind": kind})
    for base, side in (("sd15", 512), ("sdxl", 1024))
    for batch in (1, 4)
    for kind in ("lora", "dora", "lokr")
}


# --- what is measured -------------------------------------------------------------------------------------------------


def engine(case: Case, base: str, folder: Path) -> Trainer:
    """The engine before its first step."""
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    job = TrainJob(
        settings=case.config(),
        base=base,
        dataset=str(bases.pictures(folder / "data", case.resolution)),
        cache=str(folder / "cache"),
        trigger="zorbi",
    )
    return prepare(job, JobContext(run))


def plan_of(trainer: Trainer) -> dict[str, Any]:
    """Device, format and layers of the engine, for the minimal loop."""
    layers: dict[str, list[str]] = {}
    for name in trainer.adapter.module_names.values():
        part, _, module = name.partition(".")
        layers.setdefault(part, []).append(module)
    family = trainer.family
    vae = json.loads((Path(trainer.job.base) / "vae" / "config.json").read_text())
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    dtype = str(family.dtype).removeprefix("torch.")
    return {"device": family.device.type, "dtype": dtype, "layers": layers, "factor": factor}


# --- measuring --------------------------------------------------------------------------------------------------------


def clock(step: Step) -> tuple[float, float]:
    """Wall and processor seconds of one call, the device's work included."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def flops(step: Step) -> int:
    """Floating point operations of one step; attention as plain products, since fused kernels are not all counted."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak_flops(device: str, dtype: str) -> float:
    """Operations per second of a large product (a processor's: per second of it): what the device reaches, not what
    its maker says."""
    size = 8192 if device == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    return 2 * size**3 / min(clock(lambda: a @ a)[device != "cuda"] for _ in range(8))


def memory_alone(case: str, contender: str, base: str, plan: dict[str, Any] | None, threads: int) -> dict[str, float]:
    """Peak and steady memory in GB of one contender in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.training", "--alone", json.dumps([case, contender, base, plan, threads])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def alone(case: str, contender: str, base: str, plan: dict[str, Any] | None, threads: int) -> None:
    """The child of memory_alone: three steps, then what they took."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        chosen = (CASES | GPU_CASES)[case]
        step = engine(chosen, base, Path(folder)).train_step if plan is None else minimal(chosen, base, plan)
        for _ in range(3):
            step()
        peak = peak_memory(os.getpid())  # of the start too
        found = {"peak": peak, "steady": psutil.Process().memory_info().rss}
        if torch.cuda.is_available():
            found = {"peak": torch.cuda.max_memory_allocated(), "steady": torch.cuda.memory_allocated()}
    print(json.dumps({name: round(value / 2**30, 2) for name, value in found.items()}))


def own_share(trainer: Trainer, steps: int) -> float:
    """Median share of the engine's step that is neither the network's forward and backward pass nor the optimizer."""
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*given, **named)
            finally:
                spent[0] += time.process_time() - begun

        return call

    trainer.answer, trainer.optimizer.step = timed(trainer.answer), timed(trainer.optimizer.step)
    backward, torch.Tensor.backward = torch.Tensor.backward, timed(torch.Tensor.backward)
    shares = []
    try:
        for _ in range(steps):
            spent[0] = 0.0
            whole = clock(trainer.train_step)[1]
            shares.append(1 - spent[0] / whole)
    finally:
        torch.Tensor.backward = backward
    return statistics.median(shares)


def busy() -> None:
    """A program that takes a whole core."""
    while True:
        sum(range(10_000))


def measure(name: str, case: Case, words: argparse.Namespace) -> dict[str, Any]:
    """All figures of one case."""
    base = paths.resolve_base("starter") if case.base == "starter" else str(bases.make(case.base, words.bases))
    with tempfile.TemporaryDirectory() as folder:
        trainer = engine(case, base, Path(folder))
        plan = plan_of(trainer)
        plans = {"engine": None, "minimal loop": plan}
        if plan["device"] == "cpu" and plan["dtype"] != "float32":
            plans["minimal loop in fp32"] = {**plan, "dtype": "float32"}
        contenders: dict[str, Step] = {
            contender: minimal(case, base, own) if own else trainer.train_step for contender, own in plans.items()
        }
        for step in contenders.values():
            for _ in range(3):  # the first steps allocate
                step()
        times: dict[str, list[tuple[float, float]]] = {contender: [] for contender in contenders}
        for turn in range(words.steps):
            for contender in sorted(contenders, reverse=bool(turn % 2)):
                times[contender].append(clock(contenders[contender]))
        share = own_share(trainer, words.steps) if plan["device"] == "cpu" else None
        work, peak = flops(contenders["minimal loop"]), peak_flops(plan["device"], plan["dtype"])
        del trainer, contenders, step
        found = {contender: {"wall": median(pairs, 0), "cpu": median(pairs, 1)} for contender, pairs in times.items()}
        if share is not None:
            found["engine"]["own share"] = share
        for contender, own_plan in plans.items():
            found[contender] |= memory_alone(name, contender, base, own_plan, words.threads)
        for peer in words.peer:
            label, _, command = peer.partition("=")
            places = {"base": base, "data": f"{folder}/data", "resolution": case.resolution, "batch": case.batch}
            said = subprocess.run(
                shlex.split(command.format(**places, steps=words.steps)), capture_output=True, text=True, check=True
            ).stdout
            seconds = [float(line) for line in said.splitlines() if line.replace(".", "", 1).strip().isdigit()]
            found[label] = {"wall": statistics.median(seconds[len(seconds) // 4 :])}  # the first steps allocate
    column = 0 if plan["device"] == "cuda" else 1  # a processor's wall time depends on what else runs
    for row in found.values():
        if spent := row.get(("wall", "cpu")[column]):
            row["mfu"] = work / spent / peak
    for contender in times:
        own, other = list(zip(*times["engine"], strict=True)), list(zip(*times[contender], strict=True))
        for place, kind in enumerate(("wall", "cpu")):
            found[contender][f"engine over it, {kind}"] = ratio(own[place], other[place])
    return {"plan": {k: plan[k] for k in ("device", "dtype")}, "flops": work, "contenders": found}


def median(pairs: list[tuple[float, float]], column: int) -> float:
    return statistics.median(pair[column] for pair in pairs)


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each case and contender."""
    rows = []
    for name, result in results.items():
        for contender, row in result["contenders"].items():
            figures = [row.get(key) for key in ("wall", "cpu", "steady", "peak", "mfu", "own share")]
            told = [row.get(f"engine over it, {kind}") for kind in ("wall", "cpu")]
            ratios = ["" if contender == "engine" or found is None else interval(found) for found in told]
            shown = ["" if figure is None else f"{figure:.3f}" for figure in figures]
            rows.append([name, result["plan"]["dtype"], contender, *shown, *ratios])
    head = [
        "case",
        "format",
        "loop",
        "wall s/step",
        "cpu s/step",
        "steady GB",
        "peak GB",
        "MFU",
        "engine's own share",
        "engine over it, wall",
        "engine over it, cpu",
    ]
    return markdown(head, rows)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--case", action="append", choices=[*CASES, *GPU_CASES], default=[], metavar="NAME")
    words.add_argument("--gpu", action="store_true", help=f"all of {', '.join(GPU_CASES)}")
    words.add_argument("--steps", type=int, default=20)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--contended", action="store_true", help="beside a program that takes one core")
    words.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    words.add_argument(
        "--bases", type=Path, default=user_cache_path("LoRA Studio", appauthor=False) / "benchmark-bases"
    )
    words.add_argument("--alone", help=argparse.SUPPRESS)
    chosen = words.parse_args()
    if chosen.alone:
        return alone(*json.loads(chosen.alone))
    torch.set_num_threads(chosen.threads)
    before = machine()
    rival = multiprocessing.Process(target=busy, daemon=True)
    if chosen.contended:
        rival.start()
    names = chosen.case + (list(GPU_CASES) if chosen.gpu else []) or ["starter"]
    results = {name: measure(name, (CASES | GPU_CASES)[name], chosen) for name in names}
    facts = {"steps": chosen.steps, "threads": chosen.threads, "contended": chosen.contended}
    text = (
        f"{chosen.steps} steps each, taking turns, {chosen.threads} thread(s)"
        f"{', one core taken by another program' if chosen.contended else ''}. Ratios: median of the pairs and its "
        "95 % interval (bootstrap); MFU is of wall time on a GPU, else of processor time. "
        "It is against a large matrix product in the same format. The engine's own share is what a "
        "step spends outside of the network's passes and the optimizer."
    )
    save(
        "training" + "-contended" * chosen.contended,
        {"machine": before, **facts, **results},
        f"{table(results)}\n\n{text}",
    )


if __name__ == "__main__":
    main()
