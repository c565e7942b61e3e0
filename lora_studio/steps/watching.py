"""Folders that captions were exported to: what other programs have changed there since, offered as a diff.

A caption that was changed there and here is a conflict: both texts are shown, and neither is lost until somebody
chooses.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.steps import captioning, sidecars
from lora_studio.steps.captioning import Change, Diff
from lora_studio.steps.sidecar_texts import mark, taken_over
from lora_studio.steps.sidecars import LISTS, Reading, Record

RACY = 2.0
"""Seconds within which a file may change twice without another time: one as new as that is read whatever its time."""


@dataclass(frozen=True)
class Offer(Reading):
    """What other programs changed in a folder. `changes` are those of captions that nobody changed here."""

    folder: str = ""
    conflicts: tuple[Change, ...] = ()
    """Changed on both sides: `before` is the text here, `after` the one there."""
    ahead: int = 0
    """Pictures whose captions were changed here since the export."""
    gone: tuple[str, ...] = ()
    """Files of the export that were taken away; the captions stay."""
    missing: bool = False
    """Whether the whole folder is gone, or its disk is not connected."""

    @property
    def digest(self) -> str:
        """Of the changes and the conflicts."""
        return captioning.digest_of(self.changes + self.conflicts)

    def page(self, most: int = 200) -> dict[str, Any]:
        """As of any reading, with the conflicts as `{"id", "field", "ours", "theirs"}`."""
        both = [{"id": one.id, "field": one.field, "ours": one.before, "theirs": one.after} for one in self.conflicts]
        more = {"folder": self.folder, "ahead": self.ahead, "gone": self.gone[:most], "missing": self.missing}
        return {**super().page(most), "conflicts": both[:most], "conflict_count": len(both), **more}


def offers(project: Project) -> list[Offer]:
    """Of each folder that was exported to, the newest last."""
    return [offer(project, folder) for folder in sidecars.load(project)]


def offer(project: Project, folder: Path | str) -> Offer:
    """What was changed in the folder since both sides last agreed. Only files that changed are read. Raises UserError
    for a folder that was never exported to."""
    folder = str(Path(folder).expanduser().resolve())
    record = _record(project, folder)
    return _compare(project, folder, record)[0]


def take(
    project: Project,
    folder: Path | str,
    digest: str | None = None,
    theirs: Iterable[int] = (),
    ours: Iterable[int] = (),
) -> list[int]:
    """Take over what was changed there: one transaction, one undo; returns the ids of the changed pictures.

    `digest` is that of the offer that was shown. Of the conflicts, those of the pictures `theirs` are taken over and
    those of `ours` stay as they are here, to be written there by the next export; the others are offered again.
    Raises UserError, and nothing has happened, when either side has changed since the offer.
    """
    folder = str(Path(folder).expanduser().resolve())
    record = _record(project, folder)
    found, read = _compare(project, folder, record)
    if digest is not None and digest != found.digest:
        raise captioning.changed_since()
    theirs, ours = set(theirs), set(ours)
    changes = (*found.changes, *(one for one in found.conflicts if one.id in theirs))
    changed = captioning.write(project, Diff(found.label, changes))
    open_ = {one.id for one in found.conflicts} - theirs - ours
    now = sidecars.texts_of(project)
    for image_id, there in read.marks.items():
        if image_id not in open_:
            record.base[image_id] = (mark(now[image_id]), there)
    waiting = {read.of[image_id] for image_id in open_}
    for name, facts in read.files.items():
        if name not in waiting:
            record.files[name] = facts
    sidecars.save(project, {**sidecars.load(project), folder: record})
    return changed


def forget(project: Project, folder: Path | str) -> None:
    """Watch the folder no longer; its files stay. The next export there takes them for those of others."""
    folder = str(Path(folder).expanduser().resolve())
    _record(project, folder)
    sidecars.save(project, {path: one for path, one in sidecars.load(project).items() if path != folder})


def _record(project: Project, folder: str) -> Record:
    records = sidecars.load(project)
    if folder not in records:
        known = ", ".join(records) or "none yet"
        raise UserError(f"Nothing was exported to {folder}.", f"Folders that are watched: {known}.")
    return records[folder]


@dataclass
class _Read:
    """What was read for an offer."""

    files: dict[str, dict[str, Any]]
    """Changed file -> what is to be remembered of it."""
    marks: dict[int, str]
    """Picture -> mark of its text there."""
    of: dict[int, str]
    """Picture -> the file that its text is in."""


def _compare(project: Project, folder: str, record: Record) -> tuple[Offer, _Read]:
    root, label = Path(folder), f"Captions from {Path(folder).name}"
    now, plan = sidecars.texts_of(project), project.plan
    ahead = sum(one in record.base and mark(texts) != record.base[one][0] for one, texts in now.items())
    if not root.is_dir():
        return Offer(label, (), folder=folder, ahead=ahead, missing=True), _Read({}, {}, {})
    read, gone = _changed(project, root, record)
    found = sidecars.find(project, root, record, set(read)) if read else sidecars.Found({}, [], [], {})
    marks = {image_id: mark(text) for image_id, text in found.texts.items()}
    changes: list[Change] = []
    conflicts: list[Change] = []
    for image_id, text in found.texts.items():
        here, there = record.base.get(image_id, (None, None))
        if marks[image_id] == there or (there is None and not any(text)):
            continue
        agreed = mark(now[image_id]) == here or (here is None and not any(now[image_id]))
        side = changes if agreed else conflicts
        side += sidecars.changes_to(image_id, now[image_id], taken_over(text, now[image_id], plan))
    shown = Offer(
        label, tuple(changes), len(found.texts), tuple(found.unmatched), tuple(found.problems),
        folder, tuple(conflicts), ahead, gone,
    )  # fmt: skip
    return shown, _Read(read, marks, found.files)


def _changed(project: Project, root: Path, record: Record) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The files that are not as they were, with what they are now, and those that are gone."""
    ending = f".{record.form}"
    listed = LISTS.get(record.form)
    names = _files(root)
    expected = [name for name in record.files if (name == listed if listed else name.endswith(ending))]
    there = [name for name in names if (name == listed if listed else name.endswith(ending))]
    changed: dict[str, dict[str, Any]] = {}
    doubtful = hidden = False
    for name in there:
        known, status = record.files.get(name, {}), names[name]
        same = (known.get("size"), known.get("mtime")) == (status.st_size, status.st_mtime_ns)
        if same and status.st_mtime < record.seen - RACY:
            continue
        facts = sidecars.info(root / name)
        doubtful |= same
        if facts["sha256"] != known.get("sha256"):
            changed[name] = facts
            hidden |= same
    if doubtful and not hidden:  # next time their times are enough
        record.seen = time.time()
        sidecars.save(project, {**sidecars.load(project), str(root): record})
    return changed, tuple(name for name in expected if name not in names)


def _files(root: Path) -> dict[str, os.stat_result]:
    """All files below a folder by path with forward slashes; those that vanish meanwhile are passed over."""
    found: dict[str, os.stat_result] = {}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with suppress(OSError), os.scandir(root / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
                    elif entry.is_file():
                        found[name] = entry.stat()
    return found
