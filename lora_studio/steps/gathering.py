"""Gathering: pictures from files, folders and zips into the project, each checked, none ending the import."""

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_studio.core import captions, images
from lora_studio.core.errors import UserError
from lora_studio.core.images import ImageError
from lora_studio.core.jobs import Job, JobContext, Jobs
from lora_studio.core.progress import Note, Phase, Progress
from lora_studio.core.project import Plan, Project
from lora_studio.judge import dataset

CAPTIONS = (".txt", ".caption")
SILENT = {"thumbs.db", ".ds_store", "desktop.ini"}
MAX_ZIP_MEMBERS = 50_000
MAX_FILES = 100_000


@dataclass(frozen=True)
class Refused:
    """One file that was not taken, and why."""

    file: str
    reason: str


@dataclass
class Gathered:
    """What an import did."""

    added: int = 0
    already: int = 0
    captions: int = 0
    refused: list[Refused] = field(default_factory=list)
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """`{"added": n, "already": n, "refused": [{"file", "reason"}], ...}`"""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A file that may be a picture; `read` gives its bytes, `caption` those of the text file beside it."""

    name: str
    source: str
    read: Callable[[], bytes]
    caption: Callable[[], bytes] | None = None
    repeats: int = 1


Report = Callable[[int, int, str], None]


def gather(
    project: Project,
    sources: list[Path],
    report: Report = lambda done, total, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Gathered:
    """Import every picture found in `sources` (files, folders, zips). A bad file is named and passed over.

    Raises UserError when a source does not exist or nothing at all was found in it. Importing again adds only what
    is new, so an interrupted import is continued by repeating it.
    """
    result = Gathered()
    candidates: list[Candidate] = []
    for source in sources:
        try:
            candidates += _candidates(source.expanduser(), result)
        except zipfile.BadZipFile:
            result.refused.append(Refused(source.name, "damaged or not a zip file"))
    if not candidates and not result.refused:
        names = ", ".join(str(source) for source in sources)
        raise UserError(f"There are no pictures in {names}.", "Name a folder, a zip or files with pictures in them.")
    for number, candidate in enumerate(candidates):
        if should_stop():
            result.stopped = True
            break
        report(number, len(candidates), candidate.name)
        _take(project, candidate, result)
    else:
        report(len(candidates), len(candidates), "")
    return result


def start(project: Project, jobs: Jobs, sources: list[Path]) -> Job:
    """The same import as a job in the background."""
    config = {"root": str(project.root), "project": project.slug, "sources": [str(source) for source in sources]}
    folder = project.new_folder("jobs", "gather")
    return jobs.start(folder, "lora_studio.steps.gathering:job", config, "Import of pictures", project.slug)


def job(config: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """The job's entry: config holds root, project and sources."""
    project = Project.open(Path(config["root"]), config["project"])
    context.report(Phase("gather", "Importing pictures"))
    told = [0.0]

    def report(done: int, total: int, text: str) -> None:
        if done == total or done - told[0] >= max(1, total // 200):
            told[0] = done
            context.report(Progress(done, total, text))

    result = gather(project, [Path(source) for source in config["sources"]], report, context.should_stop)
    if not result.added and not result.already:
        context.report(Note("No picture could be taken.", "warning"))
    return result.to_dict()


def enough(plan: Plan) -> int:
    """From how many pictures on the next step is due: what the guide advises, or what teaches the starter."""
    low = dataset.TARGETS[plan.kind][0]
    return min(low, dataset.STARTER_ENOUGH) if plan.base == "starter" else low


def meter(plan: Plan, count: int) -> dict[str, Any]:
    """How the number of pictures stands against the guide's range for the kind, as advice in words."""
    low, high = dataset.TARGETS[plan.kind]
    if enough(plan) <= count < low:
        text = f"{low} or more are usual for a {plan.kind} ({low} to {high}); {count} work with the starter."
    elif count < low:
        text = f"{low} or more are usual for a {plan.kind} ({low} to {high}). Fewer can work: good and different ones."
    elif count <= high:
        text = f"{count} pictures: right for a {plan.kind} ({low} to {high})."
    else:
        text = f"{count} pictures: more than a {plan.kind} usually needs ({low} to {high}). Keep the best."
    return {"count": count, "low": low, "high": high, "enough": enough(plan), "text": text}


def _take(project: Project, candidate: Candidate, result: Gathered) -> None:
    try:
        data = candidate.read()
        digest = hashlib.sha256(data).hexdigest()
        if project.has(digest):
            result.already += 1
            return
        picture = images.decode(data)
        extension = images.image_format(data)
    except (ImageError, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        result.refused.append(Refused(candidate.name, str(error) or type(error).__name__))
        return
    measures = dataset.measure(np.asarray(picture))
    caption = _caption(candidate)
    fields = {
        "name": candidate.name,
        "width": picture.width,
        "height": picture.height,
        "caption": caption,
        "repeats": candidate.repeats,
        "sharpness": float(measures.sharpness),
        "phash": measures.phash,
        "signature": measures.signature,
        "source": candidate.source,
    }
    project.add_image(data, digest, extension, images.thumbnail(picture), fields)
    result.added += 1
    result.captions += bool(caption)


def _caption(candidate: Candidate) -> str:
    if candidate.caption is None:
        return ""
    try:
        return captions.join(captions.split(captions.decode_text(candidate.caption()[: 2**20])))
    except (OSError, zipfile.BadZipFile, RuntimeError):
        return ""


def _candidates(source: Path, result: Gathered) -> list[Candidate]:
    if not source.exists():
        raise UserError(f"{source} does not exist.", "Check the path.")
    if source.is_dir():
        return list(_from_folder(source, result))
    if source.suffix.lower() == ".zip":
        return list(_from_zip(source, result))
    if source.suffix.lower() in CAPTIONS:
        return []
    return [_file(source, source.name, str(source.parent))]


def _from_folder(folder: Path, result: Gathered) -> Iterator[Candidate]:
    found = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name.lower() in SILENT or path.suffix.lower() in CAPTIONS:
            continue
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        found += 1
        if found > MAX_FILES:
            result.refused.append(
                Refused(name, f"more than {MAX_FILES} files in one folder; import the rest separately")
            )
            return
        if path.suffix.lower() == ".zip":
            result.refused.append(Refused(name, "a zip inside a folder; import it by itself"))
            continue
        yield _file(path, name, str(folder))


def _file(path: Path, name: str, source: str) -> Candidate:
    def read() -> bytes:
        if path.stat().st_size > images.MAX_BYTES:
            raise ImageError(f"the file is too large (at most {images.MAX_BYTES // 2**20} MB)")
        return path.read_bytes()

    beside = next((path.with_suffix(end) for end in CAPTIONS if path.with_suffix(end).is_file()), None)
    return Candidate(name, source, read, beside.read_bytes if beside else None, _repeats(path.parent.name))


def _from_zip(source: Path, result: Gathered) -> Iterator[Candidate]:
    archive = zipfile.ZipFile(source)  # closed with the last candidate that reads from it
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) > MAX_ZIP_MEMBERS:
        raise UserError(
            f"{source.name} holds {len(members)} files.", f"Split it: at most {MAX_ZIP_MEMBERS} in one zip."
        )
    by_name = {info.filename: info for info in members}
    for info in members:
        path = Path(info.filename)
        if path.name.lower() in SILENT or path.name.startswith("._") or path.suffix.lower() in CAPTIONS:
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            result.refused.append(Refused(info.filename, "its path points outside the zip"))
            continue
        stem = info.filename.removesuffix(path.suffix)
        beside = next((by_name[stem + end] for end in CAPTIONS if stem + end in by_name), None)
        yield Candidate(
            info.filename,
            source.name,
            lambda info=info: _member(archive, info),
            (lambda beside=beside: _member(archive, beside)) if beside else None,
            _repeats(path.parent.name),
        )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes, at most the limit whatever its header claims."""
    if info.flag_bits & 1:
        raise ImageError("locked with a password")
    with archive.open(info) as file:
        data = file.read(images.MAX_BYTES + 1)
    if len(data) > images.MAX_BYTES:
        raise ImageError(f"the file is too large (at most {images.MAX_BYTES // 2**20} MB)")
    return data


def _repeats(folder: str) -> int:
    """`5_name` means 5 repeats, as kohya's folders do."""
    number = folder.partition("_")[0]
    return min(int(number), 1000) if "_" in folder and number.isdecimal() and number.isascii() and int(number) else 1
