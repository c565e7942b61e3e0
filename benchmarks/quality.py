"""Does it learn? The three samples' subjects and ten more that the starter never saw, one LoRA each.

    pip install dicebear-core dicebear-styles resvg-py      # draws the subjects; the studio itself does not need them
    python -m benchmarks.quality [--only zorbi] [--pictures 24] [--seeds 2] [--add]

`--add` keeps the other subjects of the last results, each with the commit that it was measured at.

Each subject gets `--pictures` drawn pictures with their true captions, the recipe that the studio recommends, and a
test of its last checkpoint at strength 1: four prompts with the trigger and four without, at each seed. *Shown* is how
often the tagger sees the tags that the trigger stands for (above its own threshold); *learned* and *bleed* are the
studio's own measures. The tagger does not know the new styles and concepts: for them only the embedding can tell.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, machine, markdown, save
from lora_studio.core.jobs import Job, Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering, tagging, testing, training
from lora_studio.tagger.embed import embed_files
from lora_studio.tagger.model import Tagger, load_model
from tools.starter.subjects import Subject, render, subjects


def make_project(root: Path, subject: Subject, count: int) -> Project:
    """A project with drawn pictures, captioned with their true tags but those that the trigger stands for."""
    plan = Plan(
        name=subject.name,
        kind=subject.kind,
        trigger=subject.trigger,
        defining=tuple(subject.prune_tags),
        prune_tags=tuple(subject.prune_tags),
        test_prompts=tuple(subject.test_prompts),
        bleed_prompts=tuple(subject.bleed_prompts),
    )
    project, folder = Project.create(root, plan), root / "drawn" / subject.name
    folder.mkdir(parents=True)
    for number, (picture, tags) in enumerate(render(subject, count, 128, seed=7)):
        data = io.BytesIO()
        picture.save(data, "PNG")
        (folder / f"{number:02d}.png").write_bytes(data.getvalue())
        (folder / f"{number:02d}.txt").write_text(", ".join(subject.caption(tags)), "utf-8")
    gathering.gather(project, [folder])
    assert tagging.captioned(project.images()) == len(project.images())
    return project


def wait(jobs: Jobs, job: Job) -> Job:
    """The ended job; an error ends the benchmark."""
    ended = jobs.wait(job.folder)
    assert ended.state == "done", ended.error
    return ended


def measure(root: Path, subject: Subject, count: int, seeds: int, tagger: Tagger) -> dict[str, Any]:
    """Train and test one subject."""
    project, jobs = make_project(root, subject, count), Jobs(root)
    begun = time.monotonic()
    recipe = training.recommended(project).with_changes({"run.sample_every_epochs": 0})  # pictures teach nothing
    trained = wait(jobs, training.start(project, jobs, recipe))
    seconds = time.monotonic() - begun
    last = testing.default_config(project).checkpoints[-1]
    changes = {"checkpoints": [last], "strengths": [1.0], "seeds": list(range(1, seeds + 1)),
               "bleed_prompts": list(project.plan.bleed_prompts)}  # fmt: skip
    config = testing.default_config(project).with_changes(changes)
    tested = wait(jobs, testing.start(project, jobs, config))
    card = testing.view(project, jobs, tested.id)["scorecard"]
    (variant,) = card["variants"]
    learn = [cell for cell in testing.cells(config) if cell.role == "learn"]
    files = {
        "base": [tested.folder / cell.file for cell in learn if cell.checkpoint is None],
        "lora": [tested.folder / cell.file for cell in learn if cell.checkpoint is not None],
    }
    shown = {name: shown_share(tagger, made, subject.prune_tags) for name, made in files.items()}
    return {
        "subject": subject.name,
        "kind": subject.kind,
        "tags": subject.prune_tags,
        "steps": trained.summary["steps"],
        "training_seconds": round(seconds, 1),
        "shown": shown,
        "variant": variant,
        "sheet": str(tested.folder / "sheet.webp"),
    }


def shown_share(tagger: Tagger, files: list[Path], wanted: list[str]) -> float | None:
    """Share of (picture, wanted tag) pairs that the tagger finds; None when it knows none of the tags."""
    columns = [tagger.vocabulary.names.index(tag) for tag in wanted if tag in tagger.vocabulary.names]
    if not columns:
        return None
    scores = np.asarray(embed_files(tagger, files).scores)[:, columns]
    return float((scores >= np.asarray(tagger.vocabulary.levels)[columns]).mean())


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--only", action="append", default=[])
    words.add_argument("--pictures", type=int, default=24)
    words.add_argument("--seeds", type=int, default=2)
    words.add_argument("--projects", default=None)
    words.add_argument("--add", action="store_true")
    chosen = words.parse_args()
    before, found = machine(), earlier(chosen) if chosen.add else []
    root = Path(chosen.projects or tempfile.mkdtemp(prefix="lora-studio-quality-"))
    tagger = load_model("starter")
    for name, subject in subjects().items():
        if not chosen.only or name in chosen.only:
            found = [one for one in found if one["subject"] != name]
            found.append(measure(root, subject, chosen.pictures, chosen.seeds, tagger) | {"commit": before["commit"]})
            print(row(found[-1]), flush=True)
            report(before, found, chosen)


def earlier(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """The subjects of the last results, where those were measured in the same way."""
    last = json.loads((RESULTS / "quality.json").read_text("utf-8"))
    if (last["pictures"], last["seeds"]) != (chosen.pictures, chosen.seeds):
        raise SystemExit("The last results have another number of pictures or seeds: measure all anew.")
    return [{"commit": last["machine"]["commit"], **one} for one in last["subjects"]]


def report(before: dict[str, Any], found: list[dict[str, Any]], chosen: argparse.Namespace) -> None:
    """Keep what is measured so far: a run takes most of an hour."""
    header = [
        "subject",
        "kind",
        "commit",
        "steps",
        "s",
        "shown base",
        "shown LoRA",
        "learned",
        "trigger",
        "bleed",
        "variety",
    ]
    text = f"{chosen.pictures} pictures a subject, {8 * chosen.seeds} test pictures beside as many of the base."
    result = {"machine": before, "pictures": chosen.pictures, "seeds": chosen.seeds, "subjects": found}
    save("quality", result, markdown(header, [row(one) for one in found]) + f"\n\n{text} {summary(found)}")


def row(one: dict[str, Any]) -> list[str]:
    variant = one["variant"]
    return [
        one["subject"], one["kind"], one["commit"], str(one["steps"]), f"{one['training_seconds']:.0f}",
        share(one["shown"]["base"]), share(one["shown"]["lora"]), interval(variant["learned"]),
        share(variant["trigger"]["value"]), interval(variant["bleed"]), share(variant["variety"]),
    ]  # fmt: skip


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def interval(measure: dict[str, Any]) -> str:
    if measure["low"] is None:
        return share(measure["value"])
    return f"{share(measure['value'])} ({share(measure['low'])} to {share(measure['high'])})"


def summary(found: list[dict[str, Any]]) -> str:
    known = [one for one in found if one["shown"]["lora"] is not None]
    if not known:
        return ""
    base, lora = (float(np.mean([one["shown"][name] for one in known])) for name in ("base", "lora"))
    bleed = float(np.mean([one["variant"]["bleed"]["value"] for one in found]))
    return (
        f"The {len(known)} characters' tags are shown {base:.0%} before and {lora:.0%} after; mean bleed {bleed:.2f}."
    )


if __name__ == "__main__":
    main()
