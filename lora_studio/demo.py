"""`lora-studio demo`: all six steps on the sample projects without a browser, and what came of it in figures.

Nothing is special here: it calls what the tabs call. `run` returns the figures as plain data; `as_text` tells them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lora_studio import __version__
from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Job, Jobs
from lora_studio.core.machine import machine
from lora_studio.core.project import KINDS, Project
from lora_studio.steps import conception, curation, gathering, tagging, testing, training

QUICK_TRAINING = {"run.epochs": "1", "run.sample_every_epochs": "0", "data.repeats": "1"}
QUICK_TEST = {"seeds": "1", "strengths": "1", "num_steps": "4"}
Watch = Callable[[Jobs, Job, Callable[[Job], None]], Job]


@dataclass
class Walk:
    """One sample's way through the six steps."""

    kind: str
    project: str = ""
    folder: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step."""
    gathered: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    captioned: int = 0
    training_steps: int = 0
    verdict: str = ""
    scorecard: dict[str, Any] = field(default_factory=dict)
    sheet: str = ""
    """The contact sheet: base and checkpoints side by side."""
    lora: str = ""
    peak_bytes: int = 0
    """Most memory that one of its jobs held."""


def run(root: Path | None, only: list[str], quick: bool, watch: Watch, say: Callable[[str], None]) -> dict[str, Any]:
    """Walk the samples through all steps in the projects folder `root` (default: a fresh one beside the user's own).

    `watch(jobs, job, look)` follows a job to its end; `say` gets a line at the beginning of each step.
    """
    unknown = [kind for kind in only if kind not in KINDS]
    if unknown:
        raise UserError(f"There is no sample {', '.join(unknown)}.", f"Known: {', '.join(KINDS)}.")
    folder = root or paths.default_projects().with_name(f"demo-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    walks = [_walk(folder, kind, quick, watch, say) for kind in KINDS if not only or kind in only]
    found = machine(folder)
    return {
        "version": __version__,
        "machine": {"device": found.device_name, "cores": found.cores, "memory": found.memory},
        "projects": str(folder),
        "quick": quick,
        "samples": [asdict(walk) for walk in walks],
    }


def _walk(root: Path, kind: str, quick: bool, watch: Watch, say: Callable[[str], None]) -> Walk:
    walk, jobs = Walk(kind), Jobs(root)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        say(f"{kind}: {name}")
        begun = time.perf_counter()
        yield
        walk.seconds[name] = round(time.perf_counter() - begun, 2)

    def follow(job: Job) -> Job:
        return watch(jobs, job, lambda job: setattr(walk, "peak_bytes", max(walk.peak_bytes, peak_memory(job.pid))))

    with step("conception"):
        project = conception.from_sample(root, kind)
        walk.project, walk.folder = project.slug, str(project.folder)
    with step("gathering"):
        gathered = gathering.gather(project, [conception.sample(kind).pictures])
        walk.gathered = {"added": gathered.added, "already": gathered.already, "refused": len(gathered.refused)}
    with step("curation"):
        walk.rejected = len(curation.auto(project, training.recommended(project).data.resolution))
    with step("tagging"):
        tagged = follow(tagging.start(project, jobs, tagging.recommended(project)))
        walk.captioned = tagging.apply(project, tagged.folder)["written"]
    with step("training"):
        config = training.recommended(project).with_changes(QUICK_TRAINING if quick else {})
        trained = follow(training.start(project, jobs, config))
    view = training.view(project, jobs, trained.id)
    walk.training_steps, walk.verdict = view["step"], view["verdict"]["headline"]
    with step("testing"):
        test = testing.default_config(project).with_changes(QUICK_TEST if quick else {})
        tested = follow(testing.start(project, jobs, test))
    _results(project, jobs, tested, walk)
    return walk


def _results(project: Project, jobs: Jobs, tested: Job, walk: Walk) -> None:
    view = testing.view(project, jobs, tested.id)
    walk.scorecard = view["scorecard"] or {}
    walk.sheet = str(tested.folder / view["sheet"]) if view["sheet"] else ""
    checkpoint, _ = testing.best_checkpoint(project, jobs)
    walk.lora = str(testing.export(project, checkpoint))


def peak_memory(pid: int | None) -> int:
    """Bytes: the most memory the process has held so far where the system keeps count, else what it holds; 0 when it is
    gone."""
    if pid is None:
        return 0
    with suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{pid}/status").read_text("ascii")
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024
    with suppress(psutil.Error):
        memory = psutil.Process(pid).memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    return 0


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    found = report["machine"]
    lines = [f"LoRA Studio {report['version']} on {found['device']}, {found['memory'] / 2**30:.0f} GB of memory"]
    for walk in report["samples"]:
        lines += ["", *_tell(walk)]
    return "\n".join([*lines, "", f"Everything lies in {report['projects']}"])


def _tell(walk: dict[str, Any]) -> list[str]:
    seconds, gathered = walk["seconds"], walk["gathered"]
    times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return [
        f"{walk['kind'].upper()}  {walk['project']}",
        f"  pictures   {gathered['added']} added, {gathered['already']} doubled, {gathered['refused']} refused, "
        f"{walk['rejected']} rejected, {walk['captioned']} captioned",
        f"  time       {times}; in all {sum(seconds.values()):.0f} s",
        f"  training   {walk['training_steps']} steps; {walk['verdict']}",
        *_measures(walk["scorecard"]),
        f"  memory     at most {walk['peak_bytes'] / 2**20:.0f} MB in one job",
        f"  grid       {walk['sheet']}",
        f"  LoRA       {walk['lora']}",
    ]


def _measures(card: dict[str, Any]) -> list[str]:
    """Learned and bleed of the recommended variant, before (base) and after (LoRA)."""
    best = recommended_variant(card)
    if best is None:
        return [f"  verdict    {card.get('headline', 'no test was made')}"]
    after, before = best["attributes"]["value"], card["base_attributes"]
    name = Path(best["checkpoint"]).stem
    tags = "" if after is None or before is None else f"; its tags are seen {before:.0%} before, {after:.0%} after"
    bleed = best["bleed"]["value"]
    return [
        f"  recommended {name} at strength {best['strength']}",
        f"  learned    {best['learned']['value']:.2f} (0 as the base, 1 as the training pictures){tags}",
        *(
            []
            if bleed is None
            else [f"  bleed      {bleed:.2f} (change where nothing should change: 0 none, 1 wholly)"]
        ),
    ]


def recommended_variant(card: dict[str, Any]) -> dict[str, Any] | None:
    """The scorecard's variant that it recommends."""
    choice = card.get("recommendation")
    if not choice:
        return None
    key = (choice["checkpoint"], choice["strength"])
    return next(found for found in card["variants"] if (found["checkpoint"], found["strength"]) == key)
