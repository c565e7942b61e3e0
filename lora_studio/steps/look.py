"""The job that looks at the pictures: measures, faces, lettering, embeddings and scores of each, then the pixels of
those that may be copies of each other.

Every few pictures what was found is kept, so that a stop, a kill or a full disk loses at most those few, and the job
goes on from there. Heavy packages are imported here and only inside of the job.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.images import ImageError
from lora_studio.core.jobs import JobContext, Jobs
from lora_studio.core.looks import Looks
from lora_studio.core.progress import Note, Phase, Progress
from lora_studio.core.project import Image, Plan, Project
from lora_studio.judge import duplicates, measures
from lora_studio.steps import looking

CHUNK, CHUNK_PIXELS = 16, 48_000_000
"""So many pictures are held decoded at once, fewer when they are large: 48 million pixels are 144 MB."""
PAIRS = 200
"""Comparisons between two looks at the clock of stop and progress."""
KEPT_SCORE = 0.05
"""Tags below are not kept: the judge asks for the likely ones only."""


def look(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """The job's entry: config holds root and project. Returns `{"looked", "compared", "failed": [{"file", "reason"}],
    "problem"}`; `problem` says why there was no tagger.

    Pictures that are added meanwhile are looked at as well. When somebody's job waits for this one it ends early: it is
    begun again with the next visit of Curation, and goes on from there.
    """
    project = Project.open(Path(config["root"]), config["project"])
    done: dict[str, Any] = {"looked": 0, "compared": 0, "failed": [], "problem": looking.no_tagger(project.plan)}
    tried: set[str] = set()
    model = None
    while not _should_end(project, job):
        todo = _todo(project, [image for image in project.images() if image.sha256 not in tried])
        if not todo:
            break
        tried |= {image.sha256 for image, _ in todo}
        if model is None and not done["problem"] and any("embedding" in kinds for _, kinds in todo):
            model, done["problem"] = _tagger(project.plan, job)
        _look_at(project, todo, model, job, done)
    if not _should_end(project, job):
        done["compared"] = _compare(project, job)
    return done


def _should_end(project: Project, job: JobContext) -> bool:
    """Whether a stop came, or somebody waits. Others who only look can wait: else two would give way for ever."""
    return job.should_stop() or any(
        other.state == "queued" and other.is_alive and not other.folder.name.startswith("look-")
        for other in Jobs(project.root).all()
    )


Kinds = dict[str, str]
"""Findings that a picture lacks: name and key, as looking.names gives them."""
Todo = list[tuple[Image, Kinds]]


def _todo(project: Project, pictures: Sequence[Image]) -> Todo:
    """Pictures with what they lack. Those that could not be read before are tried again."""
    looks, contents = Looks(project.folder), {image.sha256 for image in pictures}
    names = looking.names(project.plan)
    known = {name: looks.known(key, contents) for name, key in names.items()}
    found = [
        (image, {name: key for name, key in names.items() if image.sha256 not in known[name]}) for image in pictures
    ]
    return [(image, kinds) for image, kinds in found if kinds]


def _tagger(plan: Plan, job: JobContext) -> tuple[Any, str]:
    """The tagger, or why there is none: everything else is looked at all the same."""
    from lora_studio.tagger.model import load_model

    job.report(Phase("load", "Loading the tagger"))
    try:
        return load_model(plan.tagger), ""
    except UserError as error:
        job.report(Note(f"{error.message} {error.remedy} Likeness and tags wait for it.", "warning"))
        return None, f"{error.message} {error.remedy}"


@dataclass(frozen=True)
class _Seen:
    """One picture looked at: its findings so far, and what the tagger is to see; or the reason why there are none."""

    image: Image
    kinds: Kinds
    found: dict[str, bytes]
    picture: Pil.Image | None
    reason: str = ""


def _look_at(project: Project, todo: Todo, model: Any, job: JobContext, done: dict[str, Any]) -> None:
    looks, total, count = Looks(project.folder), len(todo), 0
    job.report(Phase("look", "Looking at the pictures"))
    job.report(Progress(0, total))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for chunk in _chunks(todo):
            if _should_end(project, job):
                return
            seen = list(pool.map(lambda entry: _see(project, *entry), chunk))
            found = {one.image.sha256: dict(one.found) for one in seen if not one.reason}
            if model is not None:
                _embed(model, seen, found)
            _keep(looks, found)
            for one in seen:
                if one.reason:
                    looks.put(looking.UNREADABLE, {one.image.sha256: one.reason.encode()})
                    done["failed"].append({"file": one.image.name, "reason": one.reason})
                    job.report(Note(f"{one.image.name} could not be looked at: {one.reason}.", "warning"))
            count += len(chunk)
            done["looked"] += len(found)
            job.report(Progress(count, total, f"Looking at {count} of {total} pictures"))


def _chunks(todo: Todo) -> Iterator[Todo]:
    chunk: Todo = []
    pixels = 0
    for image, kinds in todo:
        size = image.width * image.height
        if chunk and (len(chunk) == CHUNK or pixels + size > CHUNK_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append((image, kinds))
        pixels += size
    if chunk:
        yield chunk


def _see(project: Project, image: Image, kinds: Kinds) -> _Seen:
    from lora_studio.vision import faces, text

    try:
        picture = images.decode(project.original_path(image), project.plan.background)
    except ImageError as error:
        return _Seen(image, kinds, {}, None, str(error))
    rgb, found = np.asarray(picture), {}
    if "measures" in kinds:
        found[kinds["measures"]] = measures.measure(rgb).to_bytes()
    if "faces" in kinds:
        found[kinds["faces"]] = json.dumps(faces.find(rgb)).encode()
    if "lettering" in kinds:
        found[kinds["lettering"]] = json.dumps(text.find(rgb).share).encode()
    return _Seen(image, kinds, found, picture if "embedding" in kinds or "scores" in kinds else None)


def _embed(model: Any, seen: list[_Seen], found: dict[str, dict[str, bytes]]) -> None:
    asked = [one for one in seen if one.picture is not None]
    if not asked:
        return
    embeddings = model.embed_images([one.picture for one in asked])
    names = model.vocabulary.names
    for one, embedding, scores in zip(asked, embeddings, model.tag_scores(embeddings), strict=True):
        likely = {names[place]: round(float(scores[place]), 4) for place in np.flatnonzero(scores > KEPT_SCORE)}
        of_model = {
            "embedding": np.asarray(embedding, np.float32).tobytes(),
            "scores": json.dumps(likely).encode(),
        }
        found[one.image.sha256] |= {key: of_model[name] for name, key in one.kinds.items() if name in of_model}


def _keep(looks: Looks, found: dict[str, dict[str, bytes]]) -> None:
    by_kind: dict[str, dict[str, bytes]] = {}
    for content, kinds in found.items():
        for kind, data in kinds.items():
            by_kind.setdefault(kind, {})[content] = data
    for kind, of_contents in by_kind.items():
        looks.put(kind, of_contents)


# --- copies ---------------------------------------------------------------------------------------------------------


def _compare(project: Project, job: JobContext) -> int:
    """Compare the pixels of all pairs that may be copies and were not compared before; returns how many."""
    pictures = project.images()
    name = looking.comparison(project, pictures)
    if not pictures or looking.is_compared(project, pictures):
        return 0
    job.report(Phase("compare", "Comparing what looks alike"))
    looks = Looks(project.folder)
    contents = {image.sha256 for image in pictures}
    known = {one: json.loads(data) for one, data in looks.get(looking.RELATIONS, contents).items()}
    likely = [
        (pictures[first], pictures[second])
        for first, second in duplicates.candidates(looking.facts(project, pictures))
        if pictures[second].sha256 not in known.get(pictures[first].sha256, {})
    ]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(likely), PAIRS):
            if _should_end(project, job):
                return start
            some = likely[start : start + PAIRS]
            relations = list(pool.map(lambda pair: _relation(project, *pair), some))
            for (one, other), relation in zip(some, relations, strict=True):
                known.setdefault(one.sha256, {})[other.sha256] = relation
            touched = {one.sha256 for one, _ in some}
            looks.put(looking.RELATIONS, {content: json.dumps(known[content]).encode() for content in touched})
            job.report(Progress(start + len(some), len(likely), "Comparing what looks alike"))
    looks.put(looking.COMPARED, {name: b"1"})
    return len(likely)


def _relation(project: Project, one: Image, other: Image) -> str | None:
    from lora_studio.vision import same

    try:
        thumbs = [_thumb(project, image) for image in (one, other)]
    except (ImageError, OSError):  # one of them is gone; the look at it has told so
        return None
    return same.relation(*thumbs)


def _thumb(project: Project, image: Image) -> NDArray[np.uint8]:
    with Pil.open(project.thumb_path(image)) as opened:
        return np.asarray(opened.convert("RGB"))
