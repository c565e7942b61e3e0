"""The demo's figures: wall time of each step on the three samples, peak memory, learned and bleed.

python -m benchmarks.demo [--only character]
"""

import argparse
import json
import subprocess
import sys
import tempfile

from benchmarks.common import ROOT, machine, markdown, save
from lora_studio.demo import as_text, recommended_variant


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--only", action="append", default=[])
    words.add_argument("--projects", default=None)
    chosen = words.parse_args()
    before = machine()
    folder = chosen.projects or tempfile.mkdtemp(prefix="lora-studio-demo-")
    command = [sys.executable, "-m", "lora_studio", "demo", "--json", "--projects", folder]
    command += [word for kind in chosen.only for word in ("--only", kind)]
    report = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    rows = []
    for walk in report["samples"]:
        best, seconds = recommended_variant(walk["scorecard"]) or {}, walk["seconds"]
        value = {name: (best.get(name) or {}).get("value") for name in ("attributes", "learned", "bleed")}
        times = [f"{one:.1f}" for one in (*seconds.values(), sum(seconds.values()))]
        shares = [_share(one) for one in (walk["scorecard"].get("base_attributes"), *value.values())]
        rows.append([walk["kind"], *times, walk["training_steps"], f"{walk['peak_bytes'] / 2**20:.0f}", *shares])
    steps = list(report["samples"][0]["seconds"])
    header = ["sample", *(f"{name} s" for name in steps), "in all s", "training steps", "peak MB of a job", "tags base",
              "tags LoRA", "learned", "bleed"]  # fmt: skip
    print(as_text(report), file=sys.stderr)
    save("demo", {**report, "machine": before}, markdown(header, rows))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
