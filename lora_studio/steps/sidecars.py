"""Captions as files beside the pictures, for other programs: written into a folder or a zip, and read again as a diff.

What was written to a folder is remembered in the project (`sidecars.json`), so that files of others are never written
over unasked, and so that edits by other programs are found (steps/watching.py).
"""

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.files import write_all, write_bytes, write_text
from lora_studio.core.images import ImageError
from lora_studio.core.project import Image, Plan, Project
from lora_studio.steps import captioning
from lora_studio.steps.captioning import Diff
from lora_studio.steps.sidecar_texts import Texts, file_names, folded, mark, names, said, shown, stem, taken_over
from lora_studio.steps.sources import archives, datasets, local
from lora_studio.steps.sources.candidate import Refused
from lora_studio.steps.sources.entries import Entry

Form = Literal["txt", "caption", "kohya", "metadata.jsonl"]
ABOUT: dict[Form, str] = {
    "txt": "A .txt beside each picture; nearly every trainer reads it",
    "caption": "A .caption beside each picture",
    "kohya": "One captions.json, as kohya's scripts read and write it",
    "metadata.jsonl": "One list, as the Hugging Face hub and its scripts read it",
}
LISTS: dict[Form, str] = {"kohya": "captions.json", "metadata.jsonl": "metadata.jsonl"}


@dataclass(frozen=True)
class Export:
    """What was written."""

    where: Path
    written: int
    """Pictures whose caption lies there now, changed or as it was."""
    empty: int
    """Pictures without a caption, which have no file."""
    kept: tuple[str, ...] = ()
    """Files that others made or changed, left as they are."""
    replaced: Path | None = None
    """Where copies of the files lie that were written over."""


@dataclass(frozen=True)
class Reading(Diff):
    """What an import will do, and what it could not use."""

    found: int = 0
    """Pictures for which there is a text."""
    unmatched: tuple[str, ...] = ()
    """Texts that belong to no picture of the project."""
    problems: tuple[tuple[str, str], ...] = ()
    """(file, what is wrong with it)."""

    def page(self, most: int = 200) -> dict[str, Any]:
        """As of any diff, with what could not be used."""
        left = {"found": self.found, "unmatched": self.unmatched[:most], "unmatched_count": len(self.unmatched)}
        return {**super().page(most), **left, "problems": [" ".join(one) for one in self.problems[:most]]}


@dataclass
class Record:
    """What is remembered of a folder that was exported to."""

    form: Form
    files: dict[str, dict[str, Any]]
    """Path in the folder -> `sha256` of its bytes as last seen by us, `size` and `mtime` (ns) of then."""
    base: dict[int, tuple[str, str]]
    """Picture -> `mark` of its texts here and there, when both sides last agreed."""
    seen: float = 0.0
    """When the files were last found to be those (Unix seconds)."""


# --- export -------------------------------------------------------------------------------------------------------


def export(
    project: Project, target: Path, form: Form = "txt", ids: Iterable[int] | None = None, overwrite: bool = False
) -> Export:
    """Write the captions into the folder `target`, or into the zip of that name. `ids` None is the pictures in use.

    Each file is written wholly or not at all. Files that are not of an earlier export, or that others have changed
    since, are left and listed; with `overwrite` they are replaced, and copies kept in the project. Raises UserError
    when there is nothing to write, or `target` cannot be written to.
    """
    target = _target(project, target)
    plan, images = project.plan, project.images()
    wanted = {image.id for image in images if image.used} if ids is None else set(ids)
    paths = names(images)
    chosen = [image for image in images if image.id in wanted]
    there = {image.id: _there(Texts(image.caption, image.prose), plan, form) for image in chosen}
    contents, of = _contents(there, file_names(images, paths) if form == "metadata.jsonl" else paths, form)
    texted = {image_id for image_id, text in there.items() if any(text)}
    empty = len(there) - len(texted)
    if target.suffix.lower() == ".zip":
        if target.exists() and not overwrite:
            raise UserError(f"{target.name} is there already.", "Name another file, or say that it is to be replaced.")
        _refuse_nothing(contents, empty)
        write_bytes(target, _zip(contents))
        return Export(target, len(texted), empty)
    record = load(project).get(str(target)) or Record(form, {}, {})
    if form not in LISTS:  # a caption that was emptied here since is emptied there too
        known = {f"{paths[one]}.{form}": one for one in wanted if one in paths}
        contents |= {name: b"" for name in known.keys() & record.files.keys() - contents.keys()}
        of = known
    _refuse_nothing(contents, empty)
    result = _write(project, target, contents, of, record, overwrite)
    for name in contents.keys() - set(result.kept):
        record.files[name] = info(target / name, contents[name])
    left = {of[name] for name in result.kept if name in of} if of else wanted if result.kept else set()
    for image in chosen:
        if image.id not in left:
            record.base[image.id] = (mark(Texts(image.caption, image.prose)), mark(there[image.id]))
    record.form = form
    save(project, {**load(project), str(target): record})
    return Export(target, len(texted - left), empty, result.kept, result.replaced)


def _target(project: Project, target: Path) -> Path:
    target = target.expanduser().resolve()
    home = project.folder.resolve()
    if target.is_relative_to(home) and not target.is_relative_to(home / "exports"):
        raise UserError(f"{target} belongs to the project itself.", "Choose a folder of your own.")
    if target.is_file() and target.suffix.lower() != ".zip":
        raise UserError(f"{target} is a file.", "Name a folder, or a file that ends in .zip.")
    return target


def _refuse_nothing(contents: Mapping[str, bytes], empty: int) -> None:
    if not contents:
        why = f"None of the {empty} pictures has a caption." if empty else "There are no pictures to write captions of."
        raise UserError(why, "Run the auto-tagger, or write some.")


def _there(texts: Texts, plan: Plan, form: Form) -> datasets.Said:
    """What a reader of the export finds of the picture."""
    return said(texts, plan) if form == "kohya" else datasets.Said(shown(texts, plan).strip())


def _contents(
    texts: Mapping[int, datasets.Said], called: Mapping[int, str], form: Form
) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files by path, and the picture that each is of, where it is of one."""
    texts = {one: text for one, text in texts.items() if any(text)}
    if form in ("txt", "caption"):
        of = {f"{called[one]}.{form}": one for one in texts}
        return {name: texts[one].text.encode("utf-8", "replace") for name, one in of.items()}, of
    if not texts:
        return {}, {}
    if form == "metadata.jsonl":
        rows = [{"file_name": called[one], "text": text.text} for one, text in texts.items()]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        table = {called[one]: {"tags": text.tags, "caption": text.text} for one, text in texts.items()}
        table = {name: {kind: text for kind, text in row.items() if text} for name, row in table.items()}
        text = json.dumps(table, ensure_ascii=False, indent=1)
    return {LISTS[form]: text.encode("utf-8", "replace")}, {}


def _zip(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class _Written(NamedTuple):
    kept: tuple[str, ...]
    replaced: Path | None


def _write(
    project: Project,
    folder: Path,
    contents: Mapping[str, bytes],
    of: Mapping[str, int],
    record: Record,
    overwrite: bool,
) -> _Written:
    """Write what differs from what is there, and nothing that others made or changed, unless told to."""
    new: dict[Path, bytes] = {}
    foreign: dict[str, bytes] = {}
    inside: dict[Path, bool] = {}
    for name, data in contents.items():
        path = folder / name
        if path.parent not in inside:
            inside[path.parent] = path.parent.resolve().is_relative_to(folder)
        if path.is_symlink() or not inside[path.parent]:
            raise UserError(f"{path} leads outside {folder}.", "Take the link away, or choose another folder.")
        there = _read(path)
        if there == data:
            continue
        new[path] = data
        if there is not None and not _ours(there, name, of.get(name), record):
            foreign[name] = there
    if not overwrite:
        left = {folder / name for name in foreign}
        write_all({path: data for path, data in new.items() if path not in left})
        return _Written(tuple(foreign), None)
    replaced = project.new_folder("exports", "replaced") if foreign else None
    if replaced:
        write_all({replaced / name: data for name, data in foreign.items()})
    write_all(new)
    return _Written((), replaced)


def _ours(there: bytes, name: str, image_id: int | None, record: Record) -> bool:
    """Whether what is there is what we wrote, be it in another encoding or with another end of the line."""
    if record.files.get(name, {}).get("sha256") == hashlib.sha256(there).hexdigest():
        return True
    known = record.base.get(image_id, ("", ""))[1] if image_id is not None else ""
    return known == mark(datasets.Said(captions.decode_text(there).strip()))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.", "Check its rights.") from error


# --- what is remembered ---------------------------------------------------------------------------------------------


def info(path: Path, data: bytes | None = None) -> dict[str, Any]:
    """What is remembered of a file; `data` is its content, where at hand."""
    status = path.stat()
    digest = hashlib.sha256(path.read_bytes() if data is None else data).hexdigest()
    return {"sha256": digest, "size": status.st_size, "mtime": status.st_mtime_ns}


def load(project: Project) -> dict[str, Record]:
    """The folders that were exported to, by path; a file that cannot be read is as good as none."""
    try:
        data = json.loads((project.folder / "sidecars.json").read_text("utf-8"))
        return {
            folder: Record(
                one["form"], one["files"], {int(key): tuple(value) for key, value in one["base"].items()}, one["seen"]
            )
            for folder, one in data["folders"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(project: Project, records: Mapping[str, Record]) -> None:
    """Remember these folders."""
    folders = {folder: vars(record) for folder, record in records.items()}
    write_text(project.folder / "sidecars.json", json.dumps({"folders": folders}, ensure_ascii=False))


# --- import -------------------------------------------------------------------------------------------------------


def read(project: Project, source: Path) -> Reading:
    """What the captions in a folder or zip would change, in whichever encoding and form they are.

    A text belongs to the picture of the same path or name, with or without the picture's ending. Empty texts say
    nothing. Raises UserError when `source` is no folder or zip, or holds no captions.
    """
    source = source.expanduser()
    record = load(project).get(str(source.resolve()))
    found = find(project, source, record)
    now, plan = texts_of(project), project.plan
    if not found.texts and not found.problems and not found.unmatched:
        raise UserError(
            f"{source.name} holds no captions.", "Known are .txt, .caption, captions.json of kohya, metadata.jsonl."
        )
    changes = [
        change
        for image_id, text in found.texts.items()
        if any(text)
        for change in changes_to(image_id, now[image_id], taken_over(text, now[image_id], plan))
    ]
    return Reading(
        f"Captions from {source.name}", tuple(changes), len(found.texts), tuple(found.unmatched), tuple(found.problems)
    )


def texts_of(project: Project) -> dict[int, Texts]:
    """Both texts of all pictures."""
    prose = project.texts("prose")
    return {one: Texts(caption, prose.get(one, "")) for one, caption in project.texts("caption").items()}


def changes_to(image_id: int, before: Texts, after: Texts) -> list[captioning.Change]:
    """The changes that make the one of the other."""
    fields: tuple[captioning.Field, ...] = ("caption", "prose")
    pairs = zip(fields, before, after, strict=True)
    return [captioning.Change(image_id, field, was, now) for field, was, now in pairs if was != now]


@dataclass
class Found:
    """The texts in a folder, by picture."""

    texts: dict[int, datasets.Said]
    unmatched: list[str]
    problems: list[tuple[str, str]]
    files: dict[int, str]
    """Picture -> the file that its text is from."""


def find(project: Project, source: Path, record: Record | None, only: set[str] | None = None) -> Found:
    """The texts of the project's pictures in a folder or zip; `only` reads no other files than these."""
    texts: dict[str, Entry] = {}
    lists, listed = datasets.Lists(), []
    found = Found({}, [], [], {})
    ending = f".{record.form}" if record else ".txt"
    for one in _entries(source):
        if isinstance(one, Refused):
            found.problems.append((one.file, one.reason))
        elif only is not None and one.name not in only:
            continue
        elif one.suffix in datasets.CAPTIONS:
            if folded(one.stem) not in texts or one.suffix == ending:
                texts[folded(one.stem)] = one
        elif one.path.name.lower() in datasets.LISTS or one.suffix == ".json":
            listed.append(one.name)
            found.problems += [(one.name, reason) for reason in lists.read(one)]
    images = project.images()
    paths = names(images)
    bases = Counter(base for image in images for base in {_base(image.name), _base(stem(image.name))})
    files = file_names(images, paths)
    used = _match(images, paths, bases, texts, found)
    for image in images if listed else ():
        called = [files[image.id], f"{paths[image.id]}.png"]
        if record is None:  # made by another program, from another place
            called += [image.name, *([PurePosixPath(image.name).name] if bases[_base(image.name)] == 1 else [])]
        text = next((text for path in called if (text := lists.said(Entry(path, _nothing)))), None)
        if text and image.id not in found.texts and _fits(text, image.name, found):
            found.texts[image.id] = text
            found.files[image.id] = listed[0]
    if listed and not set(found.files.values()) & set(listed) and not found.problems:
        found.problems += [(name, "speaks of no picture of this project") for name in listed]
    found.unmatched += [entry.name for place, entry in texts.items() if place not in used]
    return found


def _nothing(limit: int) -> bytes:
    return b""


def _entries(source: Path) -> Iterable[Entry | Refused]:
    if source.is_dir():
        return local.walk(source, into_zips=False)
    if source.is_file() and source.suffix.lower() == ".zip":
        return archives.entries(source)
    if not source.exists():
        raise UserError(f"{source} does not exist.", "Check the path.")
    raise UserError(f"{source.name} is no folder and no zip.", "Name the folder that the captions lie in.")


def _match(
    images: list[Image], paths: Mapping[int, str], bases: Mapping[str, int], texts: Mapping[str, Entry], found: Found
) -> set[str]:
    """Give each picture its text; returns the keys of the texts that belong to one. `bases` counts the pictures by
    name without folder."""
    by_base: dict[str, list[str]] = {}
    for place in texts:
        by_base.setdefault(place.rpartition("/")[2], []).append(place)
    used: set[str] = set()
    for image in images:
        places = (folded(paths[image.id]), folded(image.name), folded(stem(image.name)))
        place = next((one for one in places if one in texts), None)
        for base in (_base(image.name), _base(stem(image.name))) if place is None else ():
            alike = by_base.get(base, [])
            if len(alike) == 1 and bases[base] == 1:
                place = alike[0]
            elif alike:
                used.update(alike)
                found.problems.append((texts[alike[0]].name, f"may be of {image.name}, but several have that name"))
            if alike:
                break
        if place is None:
            continue
        used.add(place)
        try:
            text = datasets.Said(captions.decode_text(texts[place].read(datasets.MAX_TEXT)).strip())
        except (OSError, ImageError) as error:
            found.problems.append((texts[place].name, str(error)))
            continue
        if _fits(text, texts[place].name, found):
            found.texts[image.id] = text
            found.files[image.id] = texts[place].name
    return used


def _base(name: str) -> str:
    return folded(PurePosixPath(name.replace("\\", "/")).name)


def _fits(text: datasets.Said, name: str, found: Found) -> bool:
    longest = max(map(len, text))
    if longest > captioning.MAX_LENGTH:
        found.problems.append((name, f"{longest} letters long, at most {captioning.MAX_LENGTH} are kept: left out"))
    return longest <= captioning.MAX_LENGTH
