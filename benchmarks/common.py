"""What every measurement writes beside its figures: the machine, its load, the versions."""

import json
import os
import platform
import random
import statistics
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "gradio")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load, versions and commit, as of now."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_before": [round(value, 1) for value in os.getloadavg()],
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
    }


def save(name: str, found: dict[str, Any], table: str) -> None:
    """Write `results/NAME.json` and `.md`, and print the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    what = found["machine"]
    head = (
        f"{what['time']}, commit {what['commit']}: {what['processor']}, {what['cores']} cores, {what['memory_gb']} GB, "
        f"Python {what['python']}, torch {what['versions']['torch']}, diffusers {what['versions']['diffusers']}; "
        f"load average at the beginning {what['load_before'][0]} (other work on the machine)."
    )
    (RESULTS / f"{name}.md").write_text(f"# {name}\n\n{head}\n\n{table}\n", "utf-8")
    print(f"{head}\n\n{table}")


def markdown(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def ratio(own: list[float], other: list[float]) -> list[float]:
    """Median of own / other pair by pair, and the ends of its 95 % interval: of medians of 2,000 samples drawn with
    replacement from the pairs (percentile bootstrap, Efron 1979)."""
    ratios = [a / b for a, b in zip(own, other, strict=True)]
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return [statistics.median(ratios), medians[50], medians[1949]]


def interval(found: list[float]) -> str:
    """A median and its interval, as `ratio` gives them."""
    middle, low, high = found
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _git(*words: str) -> str:
    answer = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return answer.stdout.strip()
