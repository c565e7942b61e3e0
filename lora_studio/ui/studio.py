"""What the handlers of the page share: the projects folder, the jobs, and a memory of what was read from them."""

import threading
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_studio.core.jobs import ENDED, Job, Jobs
from lora_studio.core.looks import Looks
from lora_studio.core.machine import machine
from lora_studio.core.project import Image, Project
from lora_studio.engine.config import TrainConfig
from lora_studio.judge import dataset
from lora_studio.judge.facts import Flag
from lora_studio.steps import curation, gathering, looking, tagging, training
from lora_studio.steps.rows import Row, rows
from lora_studio.ui.states import Facts, StepState, steps_state
from lora_studio.ui.uploads import Uploads

LOW_DISK = 2 * 2**30
"""Bytes free below which the sidebar warns."""
STEP_OF = {"gather": "gathering", "look": "curation", "tag": "tagging", "react": "tagging"}
"""Which step a folder of `jobs/` belongs to, by the first part of its name."""


class Studio:
    """One open studio. Everything lies on disk; what is kept here can be forgotten at any time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = Jobs(root)
        self.uploads = Uploads(root / ".tmp" / "uploads")
        self._memory: dict[tuple[str, str], tuple[Any, Any]] = {}
        self._progress: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def open(self, project: str) -> Project:
        """The project of that folder name. Raises UserError."""
        return Project.open(self.root, project)

    def remembered(self, project: Project, what: str, make: Callable[[], Any], stamp: Any = None) -> Any:
        """`make()`, kept until the project's pictures or plan change, or only until `stamp` does when it is given."""
        if stamp is None:
            stamp = (project.revision, (project.folder / "project.toml").stat().st_mtime_ns)
        key = (project.slug, what)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:  # two pages that ask at once wait for one answer
            found = self._memory.get(key)
            if found is None or found[0] != stamp:
                found = self._memory[key] = (stamp, make())
            return found[1]

    def images(self, project: Project) -> list[Image]:
        """All pictures of the project."""
        return self.remembered(project, "images", project.images)

    def seen(self, project: Project) -> dict[str, looking.Seen]:
        """What was found by looking at the pictures; while the job that looks runs, what was known before it."""
        images = self.images(project)
        stamp = (self._looked(project), len(images))
        return self.remembered(
            project, "seen", lambda: looking.seen(project, [image.sha256 for image in images]), stamp
        )

    def patch(self, project: Project, changed: Iterable[Image], before: int) -> None:
        """Take over pictures that an edit of this process changed, in place of reading all again. `before` is the
        revision that it began with; when anybody else changed something too, all are read at the next use."""
        key, changes = (project.slug, "images"), {image.id: image for image in changed}
        with self._lock:
            stamp, images = self._memory.get(key, ((-1, 0), []))
            fresh = [changes.get(image.id, image) for image in images]
            if stamp[0] == before and project.revision == before + 1 and fresh != images:
                self._memory[key] = ((before + 1, stamp[1]), fresh)

    def audit(self, project: Project) -> dataset.Audit:
        """The judge's look at the pictures that are used. A decision to keep asks for a new one only where the picture
        is flagged or one of several copies."""
        used = [image for image in self.images(project) if image.used]
        before = self._memory.get((project.slug, "audit"))

        def make() -> dataset.Audit:
            facts = looking.facts(project, used, self.seen(project))
            return curation.judge(project, facts, self.resolution(project))

        found = self.remembered(
            project, "audit", make, self._audited(project, used, curation.weighed(before[1]) if before else set())
        )
        if before is None or found is not before[1]:  # whose decisions count is known only now
            self._memory[project.slug, "audit"] = (self._audited(project, used, curation.weighed(found)), found)
        return found

    def _audited(self, project: Project, used: list[Image], weighed: Container[int] = ()) -> tuple[Any, ...]:
        """What an audit depends on; last the pictures: (id, caption, crops, decision where it matters)."""
        return (
            self._planned(project),
            self.resolution(project),
            self._looked(project),
            [(image.id, image.caption, image.crops, image.id in weighed and image.decision) for image in used],
        )

    def _flags(self, project: Project, used: list[Image]) -> Mapping[int, list[Flag]]:
        """The flags, for the step bar: of the last audit while that has seen all of these pictures. Taking some out
        mends few of the others, and to judge 10,000 anew at every rejection would hold up the next decision."""
        before, stamp = self._memory.get((project.slug, "audit")), self._audited(project, used)
        if (
            before
            and before[0][:-1] == stamp[:-1]
            and {one[0] for one in stamp[-1]} <= {one[0] for one in before[0][-1]}
        ):
            return before[1].flags
        return self.audit(project).flags

    def proposals(self, project: Project) -> dict[int, curation.Proposal]:
        """What to decide of the pictures that nobody has decided on."""
        return curation.proposals(project, images=self.images(project), found=self.audit(project))

    def rows(self, project: Project) -> list[Row]:
        """All pictures as the filter asks for them."""
        images, found = self.images(project), self.audit(project)
        stamp = (project.revision, self._planned(project), self._looked(project))
        return self.remembered(
            project,
            "rows",
            lambda: rows(project, found.flags, images, looking.facts(project, images, self.seen(project))),
            stamp,
        )

    def config(self, project: Project) -> TrainConfig:
        """What the project will be trained with; to work it out for 10,000 pictures takes a while. Its number of steps
        may be that of fewer or more pictures."""
        path = project.folder / "train.json"
        stamp = (self._planned(project), path.stat().st_mtime_ns if path.exists() else 0)
        return self.remembered(project, "config", lambda: training.current(project), stamp)

    def resolution(self, project: Project) -> int:
        """The side in pixels that the project will be trained at."""
        return self.config(project).data.resolution

    def _planned(self, project: Project) -> int:
        return (project.folder / "project.toml").stat().st_mtime_ns

    def _looked(self, project: Project) -> Any:
        """Changes with what was found out about the pictures, but not at every picture that the job looks at."""
        job = looking.last(project, self.jobs)
        if job is not None and job.state not in ENDED:
            return job.created
        return Looks(project.folder).stamp

    def running(self) -> list[Job]:
        """Jobs that have not ended, of all projects."""
        return [job for job in self.jobs.all() if job.state not in ENDED]

    def progress(self, job: Job) -> dict[str, Any]:
        """The last word of a job: `{"done", "total", "text"}`. Reads only what is new in its events."""
        offset, shown = self._progress.get(job.folder, (0, {"done": 0, "total": 0, "text": ""}))
        if offset and (job.folder / "events.jsonl").stat().st_size < offset:
            offset = 0
        events, offset = job.events(offset)
        for event in events:
            if event["event"] == "Phase":
                shown = {"done": 0, "total": 0, "text": event["text"]}
            elif event["event"] == "Progress":
                shown = {"done": event["done"], "total": event["total"], "text": event["text"] or shown["text"]}
            elif event["event"] == "Step":
                shown = {
                    "done": event["step"],
                    "total": event["total"],
                    "text": f"step {event['step']} of {event['total']}",
                }
        self._progress[job.folder] = (offset, shown)
        return shown

    def facts(self, project: Project, running: list[Job]) -> Facts:
        """What the step bar needs to know of a project."""
        plan, images = project.plan, self.images(project)
        used = [image for image in images if image.used]
        flags = self._flags(project, used) if used else {}
        undecided = [
            image.id
            for image in used
            if image.decision == "new" and any(flag.name in curation.BAD_FLAGS for flag in flags.get(image.id, ()))
        ]
        return Facts(
            trigger=plan.trigger,
            pictures=len(used),
            rejected=len(images) - len(used),
            wanted=gathering.enough(plan),
            undecided=len(undecided),
            curated=any(image.decision != "new" for image in images) or (bool(used) and not undecided),
            untagged=len(used) - tagging.captioned(used),
            checkpoints=_count(project, "runs/*/checkpoints/*.safetensors"),
            tests=_count(project, "tests/*/job.json"),
            exports=_count(project, "exports/*.safetensors"),
            busy=tuple(
                (step_of(job), self._percent(job))
                for job in running
                if job.project == project.slug and not job.id.startswith("look-")  # nobody has to wait for that one
            ),
        )

    def states(self, project: Project, running: list[Job] | None = None) -> list[StepState]:
        """The six steps of a project."""
        return steps_state(self.facts(project, self.running() if running is None else running))

    def _percent(self, job: Job) -> str:
        shown = self.progress(job)
        share = f"{100 * shown['done'] // shown['total']} %" if shown["total"] else ""
        return {"queued": "waiting", "paused": f"paused {share}"}.get(job.state) or share or "starting"

    def machine(self) -> dict[str, Any]:
        """The device and disk line at the foot of the sidebar."""
        found = machine(self.root)
        return {
            "device": found.device_name,
            "disk": f"{found.disk_free / 2**30:.0f} GB free on the disk",
            "low": found.disk_free < LOW_DISK,
        }


def step_of(job: Job) -> str:
    """The step whose tab shows the job."""
    group = job.folder.parent.name
    if group in ("runs", "tests"):
        return {"runs": "training", "tests": "testing"}[group]
    return STEP_OF.get(job.folder.name.partition("-")[0], "conception")


def _count(project: Project, pattern: str) -> int:
    return sum(1 for _ in project.folder.glob(pattern))
