"""Tagging's captions as files: written out for other programs, read in, and a folder watched for their edits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.steps import captioning, sidecars, watching
from lora_studio.ui import guards, pictures
from lora_studio.ui.studio import Studio

Ids = Annotated[list[int], Field(max_length=200_000)]
Folder = Annotated[str, Field(max_length=4000)]
MAX_LISTED = 100
"""Files named in an answer; more than that is a number."""


def functions(studio: Studio) -> dict[str, Any]:
    """What the files' dialog calls."""
    return _written(studio) | _taken(studio) | _watched(studio)


def _written(studio: Studio) -> dict[str, Callable[..., Any]]:
    def info(project: str) -> dict[str, Any]:
        studio.open(project)
        return {"owner": guards.owner.get()}

    def export(project: str, form: sidecars.Form, folder: Folder = "", overwrite: bool = False) -> dict[str, Any]:
        opened = studio.open(project)
        if folder:
            done = sidecars.export(opened, _own(folder), form, overwrite=overwrite)
        else:
            path = opened.folder / "exports" / f"{opened.slug} captions ({form.removesuffix('.jsonl')}).zip"
            done = sidecars.export(opened, path, form, overwrite=True)
        return {
            "name": done.where.name,
            "written": done.written,
            "empty": done.empty,
            "kept": done.kept[:MAX_LISTED],
            "num_kept": len(done.kept),
            "replaced": done.replaced and str(done.replaced),
        }

    return {"files.info": info, "files.export": export}


def _taken(studio: Studio) -> dict[str, Callable[..., Any]]:
    def reading(project: Project, folder: str, batch: str) -> sidecars.Reading:
        if not batch:
            return sidecars.read(project, _own(folder))
        source = studio.uploads.path(batch)
        inside = [path for path in source.iterdir() if path.is_file()]
        if len(inside) == 1 and inside[0].suffix.lower() == ".zip":
            return sidecars.read(project, inside[0])
        return replace(sidecars.read(project, source), label="Captions from files")

    def preview(project: str, folder: Folder = "", batch: str = "") -> dict[str, Any]:
        return reading(studio.open(project), folder, batch).page()

    def take(project: str, digest: str, folder: Folder = "", batch: str = "") -> dict[str, Any]:
        opened = studio.open(project)
        ids = captioning.write(opened, reading(opened, folder, batch), digest)
        if batch:
            studio.uploads.finish(batch)
        return {"count": len(ids), **pictures.changed(opened, ids)}

    return {"files.preview": preview, "files.import": take}


def _watched(studio: Studio) -> dict[str, Callable[..., Any]]:
    def watched(project: str) -> list[dict[str, Any]]:
        """The folders that captions were written into, and how much was changed there; of the owner only."""
        opened = studio.open(project)
        if not guards.owner.get():
            return []
        forms = {folder: record.form for folder, record in sidecars.load(opened).items()}
        return [
            {
                "folder": one.folder,
                "form": forms[one.folder],
                "changes": len({change.id for change in one.changes}),
                "conflicts": len({change.id for change in one.conflicts}),
                "ahead": one.ahead,
                "gone": len(one.gone),
                "missing": one.missing,
            }
            for one in watching.offers(opened)
        ]

    def edits(project: str, folder: Folder) -> dict[str, Any]:
        return watching.offer(studio.open(project), _own(folder)).page()

    def take(project: str, folder: Folder, digest: str, theirs: Ids, ours: Ids) -> dict[str, Any]:
        opened = studio.open(project)
        ids = watching.take(opened, _own(folder), digest, theirs, ours)
        return {"count": len(ids), **pictures.changed(opened, ids)}

    def unwatch(project: str, folder: Folder) -> None:
        watching.forget(studio.open(project), _own(folder))

    return {"files.watched": watched, "files.edits": edits, "files.take": take, "files.unwatch": unwatch}


def _own(folder: str) -> Path:
    """A folder or zip that the page names. Raises UserError unless it is the owner's and whole."""
    if not guards.owner.get():
        raise UserError(
            "Folders of the studio's machine can be named only on that machine itself.",
            "Download a zip, or choose files, instead.",
        )
    named = Path(folder.strip().strip("\"'")).expanduser()
    if not named.is_absolute():
        raise UserError(f"{folder} is not a full path.", "Name a folder from the top, like /home/me/captions.")
    return named
