"""How the engine's cache grows: filling, opening and reading 100, 1,000 and 10,000 latents, beside one file for each.

python -m benchmarks.growth [--size 64]

Each count runs in a process of its own, so that its memory is its own. Entries are latents of a picture of `--size` by
`--size` latent pixels (64: a picture of 512 pixels for SD). "Single files" is the way of many trainers: one safetensors
file for each picture, all read into memory at the start.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file, save_file

from benchmarks.common import machine, markdown, save
from lora_studio.engine.shards import Shards

COUNTS = (100, 1_000, 10_000)
READS = 2_000


def shards(folder: Path, count: int, size: int) -> dict[str, float]:
    """Seconds and memory of the engine's cache."""
    entry = torch.randn(4, size, size)
    begun = time.perf_counter()
    store = Shards(folder, 2**40)
    for number in range(count):
        store.add(f"{number:064x}", {"value": entry})
    store.flush()
    filled = time.perf_counter()
    before = psutil.Process().memory_info().rss
    opened_at = time.perf_counter()
    store = Shards(folder, 2**40)
    opened = time.perf_counter()
    chance = random.Random(0)
    for _ in range(READS):
        store.read(f"{chance.randrange(count):064x}")
    read = time.perf_counter()
    return found(filled - begun, opened - opened_at, (read - opened) / READS, before, folder)


def single_files(folder: Path, count: int, size: int) -> dict[str, float]:
    """The same with one file for each entry, held in memory."""
    entry = torch.randn(4, size, size)
    begun = time.perf_counter()
    for number in range(count):
        save_file({"value": entry}, folder / f"{number:064x}.safetensors")
    filled = time.perf_counter()
    before = psutil.Process().memory_info().rss
    opened_at = time.perf_counter()
    held = {path.stem: load_file(path)["value"].clone() for path in folder.glob("*.safetensors")}
    opened = time.perf_counter()
    chance = random.Random(0)
    for _ in range(READS):
        held[f"{chance.randrange(count):064x}"].clone()
    read = time.perf_counter()
    return found(filled - begun, opened - opened_at, (read - opened) / READS, before, folder)


def found(fill: float, opening: float, reading: float, before: int, folder: Path) -> dict[str, float]:
    rss = psutil.Process().memory_info().rss
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "fill": fill,
        "open": opening,
        "read_ms": 1000 * reading,
        "rss_mb": (rss - before) / 2**20,
        "files": len(files),
        "disk_mb": sum(path.stat().st_size for path in files) / 2**20,
    }


WAYS = {"shards": shards, "single files": single_files}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--size", type=int, default=64)
    words.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    chosen = words.parse_args()
    if chosen.alone:
        way, count = chosen.alone
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(WAYS[way](Path(folder), int(count), chosen.size)))
        return
    before, results = machine(), {}
    for count in COUNTS:
        for way in WAYS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.growth",
                "--size",
                str(chosen.size),
                "--alone",
                way,
                str(count),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[f"{count} {way}"] = json.loads(done.stdout)
    head = ["entries", "way", "files", "disk MB", "fill s", "open s", "read ms", "memory MB"]
    rows = [
        [*name.split(" ", 1), row["files"], f"{row['disk_mb']:.0f}", f"{row['fill']:.2f}", f"{row['open']:.3f}",
         f"{row['read_ms']:.2f}", f"{row['rss_mb']:.1f}"]
        for name, row in results.items()
    ]  # fmt: skip
    text = f"{READS} reads at random; memory is what opening and reading added to the process."
    save("growth", {"machine": before, "size": chosen.size, **results}, f"{markdown(head, rows)}\n\n{text}")


if __name__ == "__main__":
    main()
