"""Data sets made for other programs: captions in text files beside the pictures, repeats in the names of folders, and
the lists of kohya's scripts and of the Hugging Face hub."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from lora_studio.core import captions
from lora_studio.core.images import ImageError
from lora_studio.steps.sources.candidate import Candidate, Refused
from lora_studio.steps.sources.entries import Entry

CAPTIONS = (".txt", ".caption")
LISTS = ("metadata.jsonl", "metadata.csv")
"""Of Hugging Face's ImageFolder: a row for each picture, with `file_name` relative to the list's folder."""
COLUMNS = ("text", "caption", "prompt", "tags", "description")
"""Where a row's caption stands; the first that is filled in counts."""
MAX_TEXT = 2**20
MAX_LIST = 256 * 2**20
MAX_REPEATS = 1000


def candidates(found: Iterable[Entry | Refused], source: str, folder: str = "") -> Iterator[Candidate | Refused]:
    """What a folder or archive holds, as candidates with their captions and repeats. `folder` is its own name, for
    pictures that lie straight in it. Texts that belong to no picture are passed over."""
    entries: list[Entry] = []
    texts: dict[str, Entry] = {}
    lists = Lists()
    for one in found:
        if isinstance(one, Refused):
            yield Refused(one.file, one.reason, source)
        elif one.suffix in CAPTIONS:
            texts.setdefault(one.stem, one)
        elif one.path.name.lower() in LISTS or one.suffix == ".json":
            yield from (Refused(one.name, reason, source) for reason in lists.read(one))
        else:
            entries.append(one)
    for entry in entries:
        if reason := entry.unfit():
            yield Refused(entry.name, reason, source)
            continue
        beside = texts.get(entry.stem) or texts.get(entry.name)
        caption = _text(beside) if beside else ""
        parent = entry.path.parent.name or folder
        yield Candidate(entry.name, source, entry.read_picture, caption or lists.caption(entry), repeats(parent))


def repeats(folder: str) -> int:
    """`5_name` means 5 repeats, as kohya's folders do."""
    number, line, _ = folder.partition("_")
    return min(int(number), MAX_REPEATS) if line and number.isdecimal() and number.isascii() and int(number) else 1


def _text(entry: Entry) -> str:
    try:
        return captions.decode_text(entry.read(MAX_TEXT))
    except (OSError, ImageError):
        return ""


class Said(NamedTuple):
    """What a list has of a picture."""

    text: str
    """Whatever it is: sentences or tags."""
    tags: str = ""
    """What is called tags, beside the text."""


class Lists:
    """Captions out of lists, found by the pictures' paths."""

    def __init__(self) -> None:
        self._by_path: dict[str, Said] = {}
        self._by_stem: dict[str, list[tuple[tuple[str, ...], Said]]] = {}
        """Name without ending -> the whole path of the key in parts, reversed, and the caption: kohya's keys are full
        paths of another machine, with or without ending."""

    def read(self, entry: Entry) -> Iterator[str]:
        """Take in a list; yields what is wrong with it."""
        try:
            text = captions.decode_text(entry.read(MAX_LIST))
        except (OSError, ImageError) as error:
            yield str(error)
            return
        folder = entry.path.parent
        try:
            match entry.path.name.lower():
                case "metadata.jsonl":
                    for number, line in enumerate(text.splitlines(), 1):
                        if line.strip():
                            try:
                                self._row(folder, json.loads(line))
                            except ValueError:
                                yield f"line {number} is no JSON"
                case "metadata.csv":
                    for row in csv.DictReader(io.StringIO(text, newline="")):
                        self._row(folder, row)
                case _:
                    if not self._kohya(json.loads(text)):
                        yield "no picture, and no list of captions known here"
        except (ValueError, csv.Error, RecursionError) as error:
            yield f"cannot be read as a list of captions ({str(error)[:80]})"

    def caption(self, entry: Entry) -> str:
        """The caption of a picture; empty where no list has it, or several differ about it."""
        said = self.said(entry)
        return ", ".join(filter(None, said)) if said else ""

    def said(self, entry: Entry) -> Said | None:
        """What a list has of a picture; None where none has it, or several differ about it."""
        if entry.name in self._by_path:
            return self._by_path[entry.name]
        own = tuple(reversed((*entry.path.parts[:-1], entry.path.stem)))
        best: set[Said] = set()
        length = 0
        for parts, said in self._by_stem.get(entry.path.stem, ()):
            same = next(
                (n for n, (a, b) in enumerate(zip(own, parts, strict=False)) if a != b), min(len(own), len(parts))
            )
            if same >= length:
                best = {said} | (best if same == length else set())
                length = same
        return best.pop() if len(best) == 1 else None

    def _row(self, folder: PurePosixPath, row: Any) -> None:
        if not isinstance(row, dict):
            raise ValueError("a row is no table")
        low = {str(name).lower(): value for name, value in row.items() if value}
        caption = next((_words(low[name]) for name in COLUMNS if name in low), "")
        if isinstance(low.get("file_name"), str) and caption:
            self._by_path[(folder / low["file_name"].replace("\\", "/")).as_posix()] = Said(caption)

    def _kohya(self, data: Any) -> bool:
        """`{path: {"caption": .., "tags": ..}}`; returns whether it is such a list."""
        if not isinstance(data, dict) or not data or not all(isinstance(value, dict) for value in data.values()):
            return False
        found = False
        for key, value in data.items():
            if not {"caption", "tags", "train_resolution"} & value.keys():
                continue
            found = True
            path = PurePosixPath(key.replace("\\", "/"))
            said = Said(_words(value.get("caption")), _words(value.get("tags")))
            for stem in {path.stem, path.name}:  # whether what follows a dot is an ending cannot be told
                parts = tuple(reversed((*path.parts[:-1], stem)))
                self._by_stem.setdefault(stem, []).append((parts, said))
        return found


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return value.strip() if isinstance(value, str) else ""
