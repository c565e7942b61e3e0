"""What is known of the pictures by looking at them: which were looked at, the job that looks at the rest, and all of it
as the judge's facts. What was found is kept by content (core/looks.py), so nothing is looked at twice.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file
from lora_studio.core.images import WHITE
from lora_studio.core.jobs import ENDED, Job, Jobs
from lora_studio.core.looks import Looks
from lora_studio.core.project import Box, Image, Plan, Project
from lora_studio.judge.facts import ImageFacts
from lora_studio.judge.measures import KEY as MEASURES
from lora_studio.judge.measures import Measures
from lora_studio.tagger import aesthetic, models

TARGET = "lora_studio.steps.look:look"
FACES, LETTERING, RELATIONS, COMPARED = "faces-1", "lettering-1", "relations-1", "compared-1"
"""Keys of the findings; count one up when its method changes."""
UNREADABLE = "unreadable"
MODEL_FILES = (".json", ".safetensors", ".gz")


def names(plan: Plan) -> dict[str, str]:
    """The key of each kind of finding, by the field of Seen; without those of the tagger where there is none.

    What is seen of a transparent picture depends on the colour behind it, so keys name the colour unless it is white.
    """
    digest = tagger_digest(plan.tagger)
    found = {"measures": MEASURES, "faces": FACES, "lettering": LETTERING}
    if digest:
        found |= {"embedding": f"embedding-{digest}", "scores": f"scores-{digest}"}
    behind = "" if plan.background == WHITE else f" on {plan.background}"
    return {name: key + behind for name, key in found.items()}


def tagger_folder(tagger: str) -> Path:
    """Where the files of a tagger lie: a folder, or a model of the hub that was fetched."""
    return models.on_disk(tagger) or Path(tagger).expanduser()


def no_tagger(plan: Plan) -> str:
    """A sentence when the plan's tagger is not there, with the way out; else nothing."""
    if tagger_digest(plan.tagger):
        return ""
    remedy = "Choose starter, a folder with an open_clip model, or fetch it in Tagging first."
    return f"There is no tagger at {plan.tagger}, so likeness and tags are not known. {remedy}"


def tagger_digest(tagger: str) -> str:
    """16 letters that change with the content of the tagger's files; empty when there are none."""
    folder = tagger_folder(tagger)
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES and path.name != aesthetic.FILE)
        return _digest(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))
    except OSError:
        return ""


@lru_cache(maxsize=8)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Reads all of the files; size and time only tell when to read them again."""
    parts = [f"{Path(path).name} {sha256_file(Path(path))}" for path, _, _ in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] if parts else ""


# --- what is left to do ---------------------------------------------------------------------------------------------


def unseen(project: Project, images: Sequence[Image]) -> dict[str, set[str]]:
    """By kind of finding, the contents that it is missing of; a picture that cannot be read is missing nothing."""
    looks, contents = Looks(project.folder), {image.sha256 for image in images}
    contents -= looks.known(UNREADABLE, contents)
    return {key: contents - looks.known(key, contents) for key in names(project.plan).values()}


def missing(project: Project, images: Sequence[Image] | None = None) -> int:
    """How many pictures are yet to be looked at; 1 when only the comparison of them all is missing."""
    images = project.images() if images is None else images
    left = set().union(*unseen(project, images).values())
    return len(left) or int(bool(images) and not is_compared(project, images))


def comparison(project: Project, images: Sequence[Image]) -> str:
    """Name of the set of pictures whose likely copies are compared."""
    contents = sorted(image.sha256 for image in images)
    return hashlib.sha256("\n".join([tagger_digest(project.plan.tagger), *contents]).encode()).hexdigest()


def is_compared(project: Project, images: Sequence[Image]) -> bool:
    """Whether all that may be copies of each other were compared pixel by pixel."""
    return bool(Looks(project.folder).known(COMPARED, [comparison(project, images)]))


# --- the job --------------------------------------------------------------------------------------------------------


def last(project: Project, jobs: Jobs) -> Job | None:
    """The job that looks at this project's pictures, as it is or was; None before the first."""
    folder = project.folder / "jobs" / "look-1"
    return jobs.get(folder) if (folder / "job.json").is_file() else None


def start(project: Project, jobs: Jobs, again: bool = False) -> Job | None:
    """Look at what was not looked at yet, in the background; None when there is nothing to do.

    One at a time: a job under way is returned as it is. One that failed or was stopped is not begun anew by itself,
    unless pictures were added since; `again` is for a person who asks for it.
    """
    folder = project.folder / "jobs" / "look-1"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(project.folder / "jobs" / ".look.lock"):
        job = last(project, jobs)
        if job is not None and job.state not in ENDED:
            return job
        images = project.images()
        if not missing(project, images):
            return None
        newest = max((image.added for image in images), default=0.0)
        if job is not None and newest < job.created and not again and _gave_up(job):
            return job
        config = {"root": str(project.root), "project": project.slug}
        return jobs.start(folder, TARGET, config, "Looking at the pictures", project.slug)


def _gave_up(job: Job) -> bool:
    """Whether the same would come of it again, or somebody did not want it."""
    return job.state in ("failed", "stopped") or bool(job.summary.get("problem"))


def status(project: Project, jobs: Jobs, images: Sequence[Image] | None = None) -> dict[str, Any]:
    """`{"missing": n, "state": the job's or "", "problem": why it does not go on, "remedy"}` for the page."""
    job, left = last(project, jobs), missing(project, images)
    found = {"missing": left, "state": job.state if job else "", "problem": "", "remedy": ""}
    if job is not None and job.state in ENDED:
        found["problem"] = job.error or job.summary.get("problem", "")
        found["remedy"] = job.remedy
    if not left and not found["problem"]:
        found |= _head_problem(project, project.images()[:1] if images is None else images[:1])
    return found


def _head_problem(project: Project, images: Sequence[Image]) -> dict[str, str]:
    """What is wrong with the aesthetic head, as `status` tells it."""
    data = Looks(project.folder).get(names(project.plan).get("embedding", ""), [image.sha256 for image in images])
    try:
        _add_aesthetic(project.plan, [{"embedding": np.frombuffer(one, np.float32)} for one in data.values()])
    except UserError as error:
        return {"problem": error.message, "remedy": error.remedy}
    return {}


# --- what is known --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What was found out about one picture's content; None for what was not looked at yet."""

    measures: Measures | None = None
    faces: tuple[Box, ...] | None = None
    lettering: float | None = None
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)
    scores: dict[str, float] | None = field(default=None, compare=False)
    aesthetic: float | None = None


NOTHING = Seen()


def seen(project: Project, contents: Iterable[str]) -> dict[str, Seen]:
    """What is known of each content (SHA-256); those of which nothing is known are left out."""
    looks, contents = Looks(project.folder), set(contents)
    reads: dict[str, Callable[[bytes], Any]] = {
        "measures": Measures.from_bytes,
        "faces": _boxes,
        "lettering": json.loads,
        "embedding": lambda data: np.frombuffer(data, np.float32),
        "scores": json.loads,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, key in names(project.plan).items():
        for content, data in looks.get(key, contents).items():
            found.setdefault(content, {})[name] = reads[name](data)
    with suppress(UserError):  # `status` tells of a damaged head; all else is known without it
        _add_aesthetic(project.plan, [values for values in found.values() if "embedding" in values])
    return {content: Seen(**values) for content, values in found.items()}


def _add_aesthetic(plan: Plan, found: list[dict[str, Any]]) -> None:
    """The score of each embedding, where a head lies in the tagger's folder. Raises UserError for a damaged one."""
    head = aesthetic.load_head(plan.tagger, len(found[0]["embedding"])) if found else None
    if head is not None:
        for values, score in zip(found, head.score(np.stack([one["embedding"] for one in found])), strict=True):
            values["aesthetic"] = round(float(score), 3)


def facts(
    project: Project, images: Iterable[Image] | None = None, known: Mapping[str, Seen] | None = None
) -> list[ImageFacts]:
    """What the judge knows of each picture; `known` is what `seen` gave, where at hand."""
    images = project.images() if images is None else list(images)
    known = seen(project, {image.sha256 for image in images}) if known is None else known
    return [
        ImageFacts(
            id=image.id,
            width=image.width,
            height=image.height,
            sharpness=image.sharpness,
            phash=image.phash,
            signature=image.signature,
            sha256=image.sha256,
            decision=image.decision,
            crops=image.crops,
            tags=tuple(captions.split(image.caption)),
            **vars(known.get(image.sha256, NOTHING)),
        )
        for image in images
    ]


def faces(project: Project, image: Image) -> tuple[Box, ...] | None:
    """The faces found in one picture; None when nobody has looked yet."""
    found = Looks(project.folder).get(names(project.plan)["faces"], [image.sha256])
    return _boxes(found[image.sha256]) if found else None


def pairs(project: Project, contents: Iterable[str]) -> dict[tuple[str, str], str]:
    """By two contents that were compared, what the second is to the first; empty where they are different pictures."""
    contents = set(contents)
    found = {}
    for one, data in Looks(project.folder).get(RELATIONS, contents).items():
        for other, relation in json.loads(data).items():
            if other in contents:
                found[one, other] = relation or ""
    return found


def _boxes(data: bytes) -> tuple[Box, ...]:
    return tuple(tuple(box) for box in json.loads(data))
