"""What each way of saving memory costs in time and saves in memory, beside the same training without it.

    python -m benchmarks.memory --case starter [--steps 12] [--threads 1] [--only selective]
    python -m benchmarks.memory --case sd15-256-auto --bases /tmp/bases

Each training is a process of its own, so that its peak is its own. The one without savings stays alive and takes turns
with each of the others, step by step in the order A B B A, so that other work on the machine slows both alike.

Peaks are of the steps alone (Linux can count anew from a moment on) and of the whole run, start included. On a CPU the
engine offloads nothing, for all is in main memory already; here it is made to, since the fetching of blocks costs the
same there: look at its time, not at its memory.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import psutil
import torch
from platformdirs import user_cache_path

from benchmarks import bases
from benchmarks.common import interval, machine, markdown, ratio, save
from benchmarks.training import CASES, GPU_CASES, clock, engine
from lora_studio.core import paths
from lora_studio.demo import peak_memory
from lora_studio.engine.offload import big_blocks, offload_blocks

OFFLOADED = 12
"""Blocks; the UNet of SD 1.5 has 38 of them, that of SDXL 28."""
PLAIN = "nothing saved"
SAVINGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "selective checkpointing": {"run.gradient_checkpointing": "selective"},
    "full checkpointing": {"run.gradient_checkpointing": "full"},
    f"{OFFLOADED} blocks offloaded": {"run.offload_blocks": OFFLOADED},
    "base in int8": {"run.quantize": "int8"},
    "base in fp8": {"run.quantize": "fp8"},
    "selective checkpointing, base in int8": {"run.gradient_checkpointing": "selective", "run.quantize": "int8"},
}
if importlib.util.find_spec("bitsandbytes"):
    SAVINGS["base in nf4"] = {"run.quantize": "nf4"}


# --- one training, in a process of its own ----------------------------------------------------------------------------


def alone(case: str, saving: str, base: str, folder: str, threads: int) -> None:
    """Takes a step for each line that comes in and answers with its figures."""
    torch.set_num_threads(threads)
    chosen = (CASES | GPU_CASES)[case]
    chosen = replace(chosen, changes=chosen.changes | SAVINGS[saving])
    trainer = engine(chosen, base, Path(folder))
    count = chosen.config().run.offload_blocks
    if count and trainer.family.device.type == "cpu":
        network = trainer.family.part("unet")
        offload_blocks(network, min(count, len(big_blocks(network))), trainer.family.device)
    from_start = peak_memory(os.getpid())
    trainer.train_step()  # selective checkpointing measures in it and keeps nothing yet
    from_start = max(from_start, peak_memory(os.getpid()))
    count_anew()
    for _ in sys.stdin:
        wall, cpu = clock(trainer.train_step)
        found = {
            "wall": wall,
            "cpu": cpu,
            "peak": peak_memory(os.getpid()),
            "steady": psutil.Process().memory_info().rss,
        }
        if torch.cuda.is_available():
            found |= {"peak": torch.cuda.max_memory_allocated(), "steady": torch.cuda.memory_allocated()}
        print(json.dumps(found | {"whole": max(from_start, found["peak"])}), flush=True)


def count_anew() -> None:
    """Forget the peak so far, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def begin(words: list[Any]) -> subprocess.Popen[str]:
    """The process of one training."""
    command = [sys.executable, "-m", "benchmarks.memory", "--alone", json.dumps(words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    """One step of it. Raises RuntimeError when it has ended."""
    assert process.stdin and process.stdout
    process.stdin.write("step\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError("the training has ended; its words stand above")


# --- side by side -----------------------------------------------------------------------------------------------------


def measure(name: str, words: argparse.Namespace) -> dict[str, Any]:
    """All savings of one case."""
    case = (CASES | GPU_CASES)[name]
    base = paths.resolve_base("starter") if case.base == "starter" else str(bases.make(case.base, words.bases))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as alive:
        plain = alive.enter_context(begin([name, PLAIN, base, folder, words.threads]))
        first = ask(plain)  # the caches are filled for the others
        found[PLAIN] = figures([first])
        for saving in SAVINGS:
            if saving == PLAIN or words.only not in saving:
                continue
            with begin([name, saving, base, folder, words.threads]) as other:
                turns = take_turns(plain, other, words.steps)
            found[saving] = figures([pair[1] for pair in turns])
            found[PLAIN] = figures([pair[0] for pair in turns])
            for kind in ("wall", "cpu"):
                found[saving][f"{kind} over plain"] = ratio([b[kind] for _, b in turns], [a[kind] for a, _ in turns])
            found[saving]["peak over plain"] = found[saving]["peak"] / found[PLAIN]["peak"]
    return found


def take_turns(
    plain: subprocess.Popen[str], other: subprocess.Popen[str], steps: int
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Pairs of steps of both, the order turned round each time; the first ones, which allocate, are left out."""
    for process in (plain, other, plain, other):
        ask(process)
    pairs = []
    for turn in range(steps):
        if turn % 2:
            second = ask(other)
            pairs.append((ask(plain), second))
        else:
            first = ask(plain)
            pairs.append((first, ask(other)))
    return pairs


def figures(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Median seconds, and memory in GB."""
    times = {kind: statistics.median(step[kind] for step in steps) for kind in ("wall", "cpu")}
    return times | {kind: round(steps[-1][kind] / 2**30, 3) for kind in ("peak", "steady", "whole")}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each case and saving."""
    head = ["case", "saving", "wall s/step", "cpu s/step", "wall over plain", "cpu over plain", "peak GB of steps"]
    rows = []
    for name, found in results.items():
        for saving, row in found.items():
            times = [interval(row[key]) if key in row else "" for key in ("wall over plain", "cpu over plain")]
            share = f"{row['peak over plain']:.2f}" if "peak over plain" in row else ""
            seconds = [f"{row[kind]:.3f}" for kind in ("wall", "cpu")]
            rows.append([name, saving, *seconds, *times, f"{row['peak']:.2f}", share, f"{row['whole']:.2f}"])
    return markdown([*head, "peak over plain", "peak GB of the run"], rows)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--case", action="append", choices=[*CASES, *GPU_CASES], default=[], metavar="NAME")
    words.add_argument("--only", default="", help="savings whose name holds this")
    words.add_argument("--steps", type=int, default=12)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument(
        "--bases", type=Path, default=user_cache_path("LoRA Studio", appauthor=False) / "benchmark-bases"
    )
    words.add_argument("--alone", help=argparse.SUPPRESS)
    chosen = words.parse_args()
    if chosen.alone:
        return alone(*json.loads(chosen.alone))
    before = machine()
    results = {name: measure(name, chosen) for name in chosen.case or ["starter"]}
    text = (
        f"{chosen.steps} steps each, in turns with the training that saves nothing, {chosen.threads} thread(s). "
        "Ratios: median of the pairs and its 95 % interval (bootstrap). On a CPU offloading is only its cost in time."
    )
    facts = {"machine": before, "steps": chosen.steps, "threads": chosen.threads}
    save("memory", {**facts, **results}, f"{table(results)}\n\n{text}")


if __name__ == "__main__":
    main()
