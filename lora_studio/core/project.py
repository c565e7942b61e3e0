"""The project store: the only home of a project's paths, pictures, captions and decisions.

A project is a folder that can be zipped, moved and opened elsewhere. Originals are never altered, nothing is deleted
(it goes to the trash), and every edit is one transaction that can be undone.
"""

import hashlib
import json
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, field_validator

from lora_studio.core import database, images
from lora_studio.core.errors import UserError
from lora_studio.core.files import inside, slug, write_all, write_bytes, write_text
from lora_studio.core.settings import Settings

Kind = Literal["character", "style", "concept"]
KINDS: tuple[Kind, ...] = ("character", "style", "concept")
PROVENANCE = ("source", "url", "author", "licence", "consent")
"""Where a picture is from, and by what right it is used. The import fills in what it knows; all can be edited."""
EDITABLE = ("decision", "reason", "caption", "prose", "crop", "more_crops", "mask", "repeats", *PROVENANCE)
MAX_PROVENANCE = 2000
DECISIONS = ("new", "keep", "maybe", "reject")
SET_ASIDE = ("maybe", "reject")
"""Decisions with which a picture is not trained on."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of width and height."""
Captions = Literal["tags", "prose", "both"]
JOB_WORDS = {"runs": "run", "tests": "test", "jobs": "job"}
"""The folders of a project that hold jobs, and what one of them is called."""


class Plan(Settings):
    """What the LoRA is to be: the answers of the conception step."""

    name: str = Field(min_length=1, max_length=80)
    """Name of the project and of the files it makes."""
    kind: Kind = "character"
    """Character: one person or being. Style: a way of drawing. Concept: a thing, pose or idea."""
    trigger: str = Field("", max_length=60)
    """The word that calls the LoRA in a prompt. Best a word the base does not know."""
    base: str = "starter"
    """The model to train on: `starter`, a file or folder, or a hub name."""
    captions: Captions = "tags"
    """What the base reads: tags in order with commas, sentences that are never split at commas, or tags and then a
    sentence."""
    tagger: str = Field("starter", min_length=1)
    """The auto-tagger that looks at the pictures: `starter`, a folder with an open_clip model, or one of
    the hub that was fetched."""
    title: str = ""
    """A short line under the name."""
    description: str = ""
    """What should come out, in a sentence or two."""
    defining: tuple[str, ...] = ()
    """What makes the subject itself and must be learned: prune these tags so that the trigger absorbs them."""
    varies: tuple[str, ...] = ()
    """What may change from picture to picture and should stay promptable: keep these tags."""
    avoid: tuple[str, ...] = ()
    """What must not be learned."""
    test_prompts: tuple[str, ...] = ()
    """Prompts that should show the subject; the trigger is put in front where it is missing."""
    bleed_prompts: tuple[str, ...] = ()
    """Prompts without the trigger that must not change."""
    prune_tags: tuple[str, ...] = ()
    """Tags taken out of all captions so that the trigger word stands for them."""
    quick_tags: tuple[str, ...] = Field((), max_length=9)
    """Tags that the caption editor gives with the keys 1 to 9; an empty one leaves its key free."""
    licence: str = ""
    """Licence of the pictures."""
    credit: str = ""
    """Whom to thank for the pictures."""
    background: str = Field(images.WHITE, pattern="^#[0-9a-f]{6}$")
    """What lies under transparent pictures, as #rrggbb."""
    author: str = ""
    """Who makes the LoRA, as its files shall say; empty says nothing."""

    @field_validator("trigger")
    @classmethod
    def _one_tag(cls, trigger: str) -> str:
        if "," in trigger or "\n" in trigger:
            raise ValueError("a trigger is one tag; take out the comma or line break")
        return trigger.strip()


@dataclass(frozen=True)
class Image:
    """One picture of a project."""

    id: int
    sha256: str
    name: str
    extension: str
    width: int
    height: int
    size: int
    decision: str
    reason: str
    caption: str
    """Tags in order, separated by commas."""
    crop: Box | None
    """What is trained on of it; None for the whole picture."""
    repeats: int
    sharpness: float
    phash: int
    signature: bytes
    source: str
    """Folder, archive, address or site that it was taken from."""
    added: float
    """Time of the import (Unix seconds)."""
    more_crops: tuple[Box, ...] = ()
    """Further parts of it, each trained on like a picture of its own."""
    mask: str = ""
    """SHA-256 of the mask that says what of it counts in training; empty for all of it."""
    url: str = ""
    author: str = ""
    licence: str = ""
    consent: str = ""
    """Note on the consent of those shown, or of the author."""
    prose: str = ""
    """Description in sentences, beside the tags or in their place, as the plan's `captions` says."""
    origin: str = ""
    """JSON of what the site it is from said of it: `{"site", "post", "rating", "tags": {kind: [tag]}}`; or empty."""

    @property
    def used(self) -> bool:
        """Whether it will be trained on: not when rejected, and not while it is set aside as a maybe."""
        return self.decision not in SET_ASIDE

    @property
    def crops(self) -> tuple[Box | None, ...]:
        """All parts that are trained on; `(None,)` for the whole picture."""
        return (self.crop, *self.more_crops)


@dataclass(frozen=True)
class Arrival:
    """A checked picture that is to be stored."""

    data: bytes
    """The file, byte for byte."""
    sha256: str
    extension: str
    thumb: bytes
    """WebP of at most 256 px, over `background`."""
    background: str
    fields: dict[str, Any]
    """Further columns of its row."""


@dataclass(frozen=True)
class Replayed:
    """What an undo or redo did."""

    label: str
    values: tuple[tuple[int, str, Any], ...]
    """Picture, field, and what stands there now, as it is stored."""


class Edit:
    """Collects the changes of one undoable step."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.changes: list[tuple[int, str, Any, Any]] = []

    def set(self, image_id: int, **values: Any) -> None:
        """Change EDITABLE fields of one picture. Raises UserError for an unknown picture or an impossible value."""
        row = self._connection.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise _no_picture(image_id)
        for field, value in values.items():
            if field not in EDITABLE:
                raise ValueError(f"{field} of a picture cannot be edited")
            after = _checked(field, value)
            if row[field] != after:
                self.changes.append((image_id, field, row[field], after))
                self._connection.execute(f"UPDATE images SET {field} = ? WHERE id = ?", (after, image_id))

    def texts(self, field: str) -> dict[int, str]:
        """One EDITABLE text of all pictures by id, as it stands now: nobody else writes before this edit ends."""
        return dict(map(tuple, self._connection.execute(f"SELECT id, {_column(field)} FROM images")))

    def set_all(self, field: str, values: Mapping[int, Any]) -> None:
        """Change one EDITABLE field of many pictures: `set` for thousands. Raises UserError as `set` does."""
        before = self.texts(field)
        changes = []
        for image_id, value in values.items():
            after = _checked(field, value)
            if image_id not in before:
                raise _no_picture(image_id)
            if before[image_id] != after:
                changes.append((image_id, field, before[image_id], after))
        self.changes += changes
        self._connection.executemany(
            f"UPDATE images SET {_column(field)} = ? WHERE id = ?", [(after, one) for one, _, _, after in changes]
        )


class Project:
    """One project folder. Cheap to open; holds no connection, so threads and processes may share it."""

    def __init__(self, root: Path, slug_: str) -> None:
        self.root = root
        self.slug = slug_
        self.folder = root / slug_
        self._database = self.folder / "project.db"

    @classmethod
    def create(cls, root: Path, plan: Plan) -> Self:
        """Make a new project; its folder name is made of the plan's name, with a number where that is taken."""
        base = slug(plan.name)
        for number in range(1, 1000):
            project = cls(root, base if number == 1 else f"{base}-{number}")
            try:
                project.folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(
                    f"Cannot create {project.folder}: {error.strerror}.", "Choose another projects folder."
                ) from error
            project.save_plan(plan)
            database.migrate(project._database)
            return project
        raise UserError(f"There are too many projects named {plan.name}.", "Choose another name.")

    @classmethod
    def open(cls, root: Path, name: str) -> Self:
        """Open by folder name (or by the plan's name). Raises UserError naming the projects there are."""
        for candidate in (name, slug(name)):
            folder = inside(root, candidate)
            if candidate and folder.parent == root.resolve() and (folder / "project.toml").is_file():
                project = cls(root, candidate)
                database.migrate(project._database)
                return project
        known = ", ".join(project.slug for project in cls.all(root)) or "none yet"
        raise UserError(f"There is no project {name} in {root}.", f"Projects here: {known}.")

    @classmethod
    def all(cls, root: Path) -> list[Self]:
        """All projects, the last touched first."""
        found = [cls(root, path.parent.name) for path in root.glob("[!.]*/project.toml")]
        return sorted(found, key=lambda project: project.touched, reverse=True)

    @property
    def touched(self) -> float:
        """Time of the last change (Unix seconds)."""
        times = [0.0]
        for path in (self.folder / "project.toml", self._database, self.folder / "project.db-wal"):
            with suppress(FileNotFoundError):  # SQLite removes the last one whenever nobody has the database open
                times.append(path.stat().st_mtime)
        return max(times)

    @property
    def plan(self) -> Plan:
        """The plan as it stands in project.toml."""
        path = self.folder / "project.toml"
        try:
            return Plan.load(tomllib.loads(path.read_text("utf-8")))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.slug}/project.toml cannot be read: {error}.", "Mend the file in a text editor."
            ) from error

    def save_plan(self, plan: Plan) -> None:
        """Write project.toml."""
        write_text(self.folder / "project.toml", tomli_w.dumps(plan.to_dict(), multiline_strings=True))

    @property
    def revision(self) -> int:
        """Grows by one with every change of the pictures, whoever made it."""
        with database.transaction(self._database, write=False) as connection:
            return connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchone()[0]

    def images(self) -> list[Image]:
        """All pictures in order of import."""
        with database.transaction(self._database, write=False) as connection:
            return [_image(row) for row in connection.execute("SELECT * FROM images ORDER BY id")]

    def texts(self, field: str, used: bool = False) -> dict[int, str]:
        """One EDITABLE text by id, of all pictures or of those that are trained on, in order of import: a tenth of
        the time that `images` takes."""
        with database.transaction(self._database, write=False) as connection:
            rows = connection.execute(f"SELECT id, {_column(field)}, decision FROM images ORDER BY id")
            return {row[0]: row[1] for row in rows if not used or row[2] not in SET_ASIDE}

    def used_images(self) -> list[Image]:
        """The pictures that will be trained on."""
        return [image for image in self.images() if image.used]

    def image(self, image_id: int) -> Image:
        """One picture. Raises UserError for an unknown id."""
        with database.transaction(self._database, write=False) as connection:
            row = connection.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise UserError(f"There is no picture {image_id} in {self.slug}.", "Reload the page.")
        return _image(row)

    def has(self, sha256: str) -> bool:
        """Whether a file with this content was imported before."""
        with database.transaction(self._database, write=False) as connection:
            return connection.execute("SELECT 1 FROM images WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def add_images(self, arrivals: Sequence[Arrival]) -> dict[str, int]:
        """Store checked pictures; returns their ids by SHA-256. Files first, all rows in one transaction last, so that
        a crash leaves no row without its files; what is there already stays as it is."""
        files: dict[Path, bytes] = {}
        for one in arrivals:
            files[self.folder / "originals" / f"{one.sha256}{one.extension}"] = one.data
            files[self._derived_path(one.sha256, "thumbs", one.background)] = one.thumb
        write_all({path: data for path, data in files.items() if not path.exists()})
        with database.transaction(self._database) as connection:
            for one in arrivals:
                row = {"sha256": one.sha256, "extension": one.extension, "size": len(one.data), "added": time.time()}
                row |= one.fields
                row["phash"] = format(row.get("phash", 0), "x")
                marks = ", ".join("?" for _ in row)
                connection.execute(
                    f"INSERT OR IGNORE INTO images ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
                )
            found = [
                connection.execute("SELECT sha256, id FROM images WHERE sha256 = ?", (one.sha256,)) for one in arrivals
            ]
            ids = dict(tuple(rows.fetchone()) for rows in found)
            _touch(connection)
        return ids

    def set_background(self, colour: str) -> None:
        """Lay transparent pictures over another colour from now on. Raises SettingsError for what is no #rrggbb."""
        plan = Plan.load({**self.plan.to_dict(), "background": colour.lower()})
        self.save_plan(plan)
        with database.transaction(self._database) as connection:
            _touch(connection)  # the pages show other pixels

    def original_path(self, image: Image) -> Path:
        """The imported file, byte for byte."""
        return self.folder / "originals" / f"{image.sha256}{image.extension}"

    def add_mask(self, png: bytes) -> str:
        """Store a mask (8-bit grey PNG, white counts) under its SHA-256 and return that: what `mask` of a picture
        holds. Masks are never altered or removed, so that every edit can be undone."""
        digest = hashlib.sha256(png).hexdigest()
        path = self.folder / "masks" / f"{digest}.png"
        if not path.exists():
            write_bytes(path, png)
        return digest

    def mask_path(self, image: Image) -> Path | None:
        """The picture's mask, None where it has none."""
        return self.folder / "masks" / f"{image.mask}.png" if image.mask else None

    def quarantine(self, refused: Iterable[tuple[str, str, str]]) -> None:
        """Remember files that could not be taken: (name, source, reason). The same file is listed once."""
        rows = [(*one, time.time()) for one in refused]
        if rows:
            with database.transaction(self._database) as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO quarantine (name, source, reason, time) VALUES (?, ?, ?, ?)", rows
                )

    def quarantined(self) -> list[dict[str, Any]]:
        """`{"id", "name", "source", "reason", "time"}` of the files that could not be taken, the newest first."""
        with database.transaction(self._database, write=False) as connection:
            return [dict(row) for row in connection.execute("SELECT * FROM quarantine ORDER BY time DESC, id DESC")]

    def forget_quarantine(self, ids: Iterable[int]) -> None:
        """Take files off the list of those that could not be taken."""
        with database.transaction(self._database) as connection:
            connection.executemany("DELETE FROM quarantine WHERE id = ?", [(one,) for one in ids])

    def thumb_path(self, image: Image) -> Path:
        """WebP of at most 256 px, made again when it is gone."""
        return self._derived(image, "thumbs", lambda pixels: images.thumbnail(pixels))

    def view_path(self, image: Image) -> Path:
        """The pixels that are trained on as WebP of at most 1600 px, for the page; made when first asked for."""
        return self._derived(image, "cache/views", lambda pixels: images.thumbnail(pixels, 1600))

    def _derived(self, image: Image, folder: str, make: Any) -> Path:
        background = self.plan.background
        path = self._derived_path(image.sha256, folder, background)
        if not path.exists():
            write_bytes(path, make(images.decode(self.original_path(image), background)))
        return path

    def _derived_path(self, sha256: str, folder: str, background: str) -> Path:
        """Over another colour than white it is another file, so that none is ever out of date."""
        shade = "" if background == images.WHITE else f"-{background[1:]}"
        return self.folder / folder / f"{sha256}{shade}.webp"

    @contextmanager
    def edit(self, label: str) -> Iterator[Edit]:
        """One transaction and one undo entry. An error inside leaves everything as it was."""
        with database.transaction(self._database) as connection:
            edit = Edit(connection)
            yield edit
            if edit.changes:
                connection.execute("DELETE FROM journal WHERE undone = 1")  # a new edit ends what could be redone
                connection.execute(
                    "INSERT INTO journal (label, time, changes) VALUES (?, ?, ?)",
                    (label, time.time(), json.dumps(edit.changes)),
                )
                _touch(connection)

    def undo_label(self) -> str | None:
        """What `undo` would take back."""
        with database.transaction(self._database, write=False) as connection:
            row = connection.execute("SELECT label FROM journal WHERE undone = 0 ORDER BY id DESC LIMIT 1").fetchone()
        return row["label"] if row else None

    def undo(self) -> str | None:
        """Take back the last edit; returns its label, None when there is none."""
        done = self.replay(back=True)
        return done.label if done else None

    def redo(self) -> str | None:
        """Do the last undone edit again; returns its label, None when there is none."""
        done = self.replay(back=False)
        return done.label if done else None

    def replay(self, back: bool) -> Replayed | None:
        """Undo (`back`) or redo, telling what it changed; None when there is nothing left."""
        which = "undone = 0 ORDER BY id DESC" if back else "undone = 1 ORDER BY id"
        with database.transaction(self._database) as connection:
            row = connection.execute(f"SELECT * FROM journal WHERE {which} LIMIT 1").fetchone()
            if row is None:
                return None
            changes = json.loads(row["changes"])
            values = [
                (image_id, field, before if back else after)
                for image_id, field, before, after in (reversed(changes) if back else changes)
            ]
            for image_id, field, value in values:
                connection.execute(f"UPDATE images SET {_column(field)} = ? WHERE id = ?", (value, image_id))
            connection.execute("UPDATE journal SET undone = ? WHERE id = ?", (int(back), row["id"]))
            _touch(connection)
            return Replayed(row["label"], tuple(values))

    def new_folder(self, group: Literal["runs", "tests", "jobs", "exports"], name: str = "") -> Path:
        """A fresh numbered folder, e.g. `runs/zorbi-2`; two callers at once get different ones."""
        parent = self.folder / group
        parent.mkdir(parents=True, exist_ok=True)
        stem = slug(name or group.removesuffix("s"))
        taken = [
            int(path.name.rpartition("-")[2]) for path in parent.glob("*-*") if path.name.rpartition("-")[2].isdecimal()
        ]
        number = max(taken, default=0) + 1
        while True:
            folder = parent / f"{stem}-{number}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1

    def job_folder(self, group: str, name: str) -> Path:
        """Folder of one of the project's own runs, tests or jobs. Raises UserError for one that is not there."""
        parent = self.folder / group
        folder = inside(parent, name)
        if group not in JOB_WORDS or folder.parent != parent.resolve() or not (folder / "job.json").is_file():
            raise UserError(
                f"There is no {JOB_WORDS.get(group, 'job')} {name[:60]} in {self.slug}.", "Choose one of the list."
            )
        return folder

    def trash(self) -> Path:
        """Move the whole project to the trash of the projects folder; returns where it lies now."""
        trash = self.root / ".trash"
        trash.mkdir(parents=True, exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix=f"{self.slug}-{time.strftime('%Y%m%d-%H%M%S')}-", dir=trash))
        target.rmdir()  # its name is ours, and the project takes its place
        shutil.move(self.folder, target)
        return target


def _no_picture(image_id: int) -> UserError:
    return UserError(f"There is no picture {image_id} in this project.", "Reload the page.")


def _checked(field: str, value: Any) -> Any:
    if field == "decision" and value not in DECISIONS:
        raise UserError(f"{value} is no decision.", f"Known: {', '.join(DECISIONS)}.")
    if field == "repeats" and not 1 <= int(value) <= 1000:
        raise UserError(f"{value} repeats cannot be.", "Choose 1 to 1000.")
    if field == "crop":
        return None if value is None else json.dumps(_box(value))
    if field == "more_crops":
        return json.dumps([_box(box) for box in value]) if value else None
    if field in PROVENANCE and len(value) > MAX_PROVENANCE:
        raise UserError(f"The {field} is too long ({len(value)} letters).", f"At most {MAX_PROVENANCE} are kept.")
    return value


def _box(value: Iterable[float]) -> list[float]:
    left, top, right, bottom = (round(float(edge), 5) for edge in value)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError("The crop lies outside the picture.", "Draw it again inside the picture.")
    return [left, top, right, bottom]


def _column(field: str) -> str:
    if field not in EDITABLE:
        raise ValueError(f"{field} of a picture cannot be edited")
    return field


def _touch(connection: Any) -> None:
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'revision'")


def _image(row: Any) -> Image:
    values = dict(row)
    values["phash"] = int(values["phash"], 16)
    values["crop"] = tuple(json.loads(values["crop"])) if values["crop"] else None
    more = values["more_crops"]
    values["more_crops"] = tuple(tuple(box) for box in json.loads(more)) if more else ()
    return Image(**values)
