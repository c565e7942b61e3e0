"""Files, folders and zips of this machine."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.images import ImageError
from lora_studio.core.project import Project
from lora_studio.steps.sources import archives, datasets
from lora_studio.steps.sources.candidate import Candidate, Refused, SourceGone
from lora_studio.steps.sources.entries import Entry, passed_over

MAX_FILES = 100_000
OWN = ("originals", "thumbs", "cache", "masks")
"""Folders of a project that hold nothing but its own pictures."""


def candidates(paths: Iterable[Path], project: Project) -> Iterator[Candidate | Refused]:
    """What is found in files, folders and zips, zips within folders too. Raises UserError for a path that does not
    exist or that is the project's own."""
    for path in paths:
        source = path.expanduser()
        if not source.exists():
            raise UserError(f"{source} does not exist.", "Check the path.")
        _refuse_own(source, project)
        if source.is_dir():
            yield from datasets.candidates(walk(source), shown(source), source.name)
        elif source.suffix.lower() == ".zip":
            yield from datasets.candidates(archives.entries(source), source.name)
        elif source.suffix.lower() not in datasets.CAPTIONS:
            yield from datasets.candidates(_with_captions(source), shown(source.parent), source.parent.name)


def shown(folder: Path) -> str:
    """The folder as the pictures' source; what was dropped on the page lay in one that nobody knows."""
    return "upload" if folder.parent.parts[-2:] == (".tmp", "uploads") else str(folder)


def _refuse_own(source: Path, project: Project) -> None:
    resolved = source.resolve()
    home = project.folder.resolve()
    if resolved == home or any(resolved.is_relative_to(home / name) for name in OWN):
        raise UserError(
            f"{source} belongs to the project {project.slug} itself: its pictures are in it already.",
            "Name the folder that they came from.",
        )


def _with_captions(file: Path) -> Iterator[Entry]:
    """A file and the texts beside it."""
    yield _entry(file, file.name, file.parent)
    for end in datasets.CAPTIONS:
        for beside in (file.with_suffix(end), file.with_name(file.name + end)):
            if beside.is_file():
                yield _entry(beside, beside.name, file.parent)


def _entry(path: Path, name: str, root: Path) -> Entry:
    def read(limit: int) -> bytes:
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > images.MAX_BYTES:
                    raise ImageError(f"the file is too large (at most {images.MAX_BYTES // 2**20} MB)")
                return file.read(limit)
        except OSError as error:
            if not root.exists():
                raise SourceGone(
                    f"{root} is gone: it was removed, or its disk or network is no longer connected.",
                    "What was taken so far is kept. Connect it again and repeat the import.",
                ) from error
            raise ImageError(f"cannot be read ({error.strerror or error})") from None

    return Entry(name, read)


def walk(root: Path, into_zips: bool = True) -> Iterator[Entry | Refused]:
    """The files below a folder, in order of name, and those in its zips. Links are followed; a folder that was visited
    is not entered again, so that circles of links end. A project in it is left alone."""
    visited: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    count = 0
    while waiting:
        folder, prefix = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited and status.st_ino:
                continue
            visited.add((status.st_dev, status.st_ino))
            if (folder / "project.toml").is_file() and (folder / "project.db").is_file():
                yield Refused(prefix or folder.name, "a project of this program; take its pictures by its name")
                continue
            found = sorted(os.scandir(folder), key=lambda one: one.name)
        except OSError as error:
            if folder == root:
                raise UserError(f"{root} cannot be read: {error.strerror or error}.", "Check its rights.") from error
            yield Refused(prefix, f"the folder cannot be read ({error.strerror or error})")
            continue
        below = []
        for one in found:
            name = f"{prefix}/{one.name}" if prefix else one.name
            if passed_over(one.name):
                continue
            try:
                kind = "folder" if one.is_dir() else "file" if one.is_file() else "other"
            except OSError:
                kind = "other"
            if kind == "folder":
                below.append((Path(one.path), name))
                continue
            count += 1
            if count > MAX_FILES:
                yield Refused(name, f"more than {MAX_FILES} files in one folder; import the rest separately")
                return
            if kind == "other":
                yield Refused(name, "a link that leads nowhere" if one.is_symlink() else "no ordinary file")
            elif name.lower().endswith(".zip") and into_zips:
                yield from archives.entries(Path(one.path), name)
            else:
                yield _entry(Path(one.path), name, root)
        waiting += reversed(below)
