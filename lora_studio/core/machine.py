"""What this machine has, found without torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Machine:
    """Device that jobs will use and what is free."""

    device: str
    """`cuda` or `cpu`."""
    device_name: str
    cores: int
    memory: int
    """Bytes of main memory."""
    disk_free: int
    """Bytes free where the projects lie."""

    @property
    def sentence(self) -> str:
        """One line for the sidebar."""
        return f"{self.device_name} · {self.disk_free / 2**30:.0f} GB free"


def machine(folder: Path) -> Machine:
    """The machine as seen from `folder` (which need not exist yet)."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    cards = _graphics_cards()
    name = cards[0] + (f" and {len(cards) - 1} more" if len(cards) > 1 else "") if cards else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        device="cuda" if name else "cpu",
        device_name=name or f"CPU, {cores} cores",
        cores=cores,
        memory=psutil.virtual_memory().total,
        disk_free=shutil.disk_usage(existing).free,
    )


def num_cards() -> int:
    """How many NVIDIA cards there are, of those that CUDA_VISIBLE_DEVICES lets programs see."""
    there, visible = len(_graphics_cards()), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    names = takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(",")))  # as CUDA reads it
    return min(there, len(list(names)))


@cache
def _graphics_cards() -> tuple[str, ...]:
    """Name and memory of each NVIDIA card."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return ()  # a driver that does not answer: the job itself will say what it found
    return tuple(line.strip() for line in answer.splitlines() if line.strip())
