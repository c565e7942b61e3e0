"""From the start of a training job to its first step, and its parts, with cold and with warm caches.

python -m benchmarks.first_step [--base starter]

The job is started as the studio starts it, on the character sample; times are those of its own events.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine, markdown, save
from lora_studio.core.jobs import Jobs
from lora_studio.steps import caption_edits, conception, gathering, training
from lora_studio.steps.caption_edits import CaptionEdit

PARTS = ("process and imports", "load the base", "pictures and texts", "adapter and first step")


def run(folder: Path, times: int) -> dict[str, list[float]]:
    """Seconds of each part, for each run on the same project; the first fills the caches."""
    project, jobs = conception.from_sample(folder, "character"), Jobs(folder)
    gathering.gather(project, [conception.sample("character").pictures])
    caption_edits.apply(project, None, CaptionEdit(do="add", tags=("zorbi", "voxel art", "smile", "red shirt")))
    config = training.recommended(project).with_changes(
        {"run.epochs": 1, "data.repeats": 1, "run.sample_every_epochs": 0}
    )
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(times):
        begun = time.time()
        job = jobs.wait(training.start(project, jobs, config).folder, 600)
        assert job.state == "done", job.error
        marks = {}
        for line in (job.folder / "events.jsonl").read_text("utf-8").splitlines():
            event = json.loads(line)
            marks.setdefault(event["name"] if event["event"] == "Phase" else event["event"], event["time"])
        places = [begun, marks["load"], marks["cache"], marks["train"], marks["Step"]]
        for part, start, end in zip(PARTS, places, places[1:], strict=False):
            found[part].append(end - start)
    return found


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--times", type=int, default=4)
    chosen = words.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), chosen.times)
    warm = {part: sorted(values[1:])[len(values[1:]) // 2] for part, values in found.items()}
    rows = [[part, f"{values[0]:.2f}", f"{warm[part]:.2f}"] for part, values in found.items()]
    rows.append(["in all", f"{sum(values[0] for values in found.values()):.2f}", f"{sum(warm.values()):.2f}"])
    table = markdown(["part", "cold s", f"warm s (median of {chosen.times - 1})"], rows)
    save("first-step", {"machine": before, "parts": found}, table)


if __name__ == "__main__":
    main()
