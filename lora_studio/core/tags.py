"""Our own list of common tags (assets/tags/*.toml): kinds of tags, other names, what implies what, what excludes what.

Everything here is looked up by the tag in small letters (`casefold`) with blanks in place of underscores.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lora_studio.core import paths

Categoriser = Callable[[str], str]
OTHER = "other"
"""The category of a tag that nobody knows."""
NEGATING = ("no ", "without ", "missing ", "removing ", "fake ", "un")
"""A tag that begins so does not say what its last word says."""
NOT_GENERAL = frozenset({"back", "ball", "card", "hands", "number", "print", "tea"})
"""Words that mean something else at the end of a longer tag: `arms behind back`, `crystal ball`."""


@dataclass(frozen=True)
class Category:
    """One kind of tags."""

    name: str
    title: str
    group: str
    """What it is about: count, person, act (what is done), wear, camera, scene, look, thing or meta."""
    also: tuple[str, ...]
    """Other words by which people name it: `outfit` for clothes."""


@dataclass(frozen=True)
class Exclusive:
    """Tags of which a picture has one."""

    name: str
    slots: tuple[frozenset[str], ...]
    """Two tags of different slots contradict each other; those of one slot may stand together."""
    one_person: bool
    """Whether that holds for one person only, so that two of them may differ."""
    unless: frozenset[str]
    """Tags with which several are right, as `two-tone hair` with two colours."""


@dataclass(frozen=True, eq=False)
class Book:
    """All that the list says; one that was read is equal to itself only."""

    categories: Mapping[str, Category]
    tags: Mapping[str, str]
    """Tag -> name of its category, in the order of the list."""
    aliases: Mapping[str, str]
    """Another spelling or name -> the usual tag."""
    implications: Mapping[str, tuple[str, ...]]
    """Tag -> what it says as well, directly: `red hat` -> `hat`."""
    exclusive: tuple[Exclusive, ...]

    def implied(self, tag: str) -> frozenset[str]:
        """What the tag says as well, and what that says; without itself."""
        found: set[str] = set()
        left = list(self.implications.get(tag, ()))
        while left:
            one = left.pop()
            if one not in found and one != tag:
                found.add(one)
                left += self.implications.get(one, ())
        return frozenset(found)


@cache
def book() -> Book:
    """The list, read once."""
    return read(paths.assets() / "tags")


def read(folder: Path) -> Book:
    """The list of the folder's TOML files. Raises KeyError or ValueError when one of them is not as it should be."""
    categories: dict[str, Category] = {}
    tags: dict[str, str] = {}
    aliases: dict[str, str] = {}
    implications: dict[str, tuple[str, ...]] = {}
    exclusive: list[Exclusive] = []
    for path in sorted(folder.glob("*.toml")):
        data = tomllib.loads(path.read_text("utf-8"))
        for entry in data.get("category", ()):
            name = entry["name"]
            categories[name] = Category(name, entry["title"], entry["group"], tuple(entry.get("also", ())))
            for tag in entry["tags"]:
                tags.setdefault(tag, name)
            for mix in entry.get("combine", ()):
                for tag in (f"{first} {last}" for first in mix["first"] for last in mix["last"]):
                    tags.setdefault(tag, name)
                    if "implies" in mix:
                        implications[tag] = tuple(mix["implies"])
        aliases |= data.get("aliases", {})
        implications |= {tag: tuple(implied) for tag, implied in data.get("implies", {}).items()}
        exclusive += _exclusive(data)
    for tag in tags:
        if (general := _last_words(tag, tags)) and general not in implications.get(tag, ()):
            implications[tag] = (*implications.get(tag, ()), general)
    return Book(categories, tags, aliases, implications, tuple(exclusive))


def _exclusive(data: dict[str, Any]) -> list[Exclusive]:
    return [
        Exclusive(
            name,
            tuple(frozenset([slot] if isinstance(slot, str) else slot) for slot in slots),
            table == "of_one_person",
            frozenset(data.get("unless", {}).get(name, ())),
        )
        for table in ("one_of", "of_one_person")
        for name, slots in data.get(table, {}).items()
    ]


def _last_words(tag: str, tags: Mapping[str, str]) -> str | None:
    """The known tag of the same kind that ends this one: `hat` of `red hat`."""
    words = tag.split(" ")
    if len(words) < 2 or tag.startswith(NEGATING):
        return None
    for start in range(1, len(words)):
        general = " ".join(words[start:])
        if tags.get(general) == tags[tag] and general not in NOT_GENERAL:
            return general
    return None


def key(tag: str) -> str:
    """The tag as it is looked up."""
    return tag.casefold() if "_" in tag and tag.casefold() in book().tags else tag.casefold().replace("_", " ")


def categoriser(more: Mapping[str, str] | None = None) -> Categoriser:
    """A function from a tag to its category. `more` are categories of tags that our list does not have.

    An unknown tag has the category of its last words where these are known (`torn red shirt`, `violet-tipped hair`),
    else `other`.
    """
    known = book()
    extra = more or {}
    ends = {"hair": "hair", "eyes": "eyes", "skin": "skin", "background": "background", "ears": "features"}

    @cache
    def category(tag: str) -> str:
        name = key(tag)
        name = known.aliases.get(name, name)
        if (found := known.tags.get(name) or extra.get(name, OTHER)) != OTHER:
            return found
        words = name.split(" ")
        for start in range(1, len(words)):
            rest = " ".join(words[start:])
            if found := known.tags.get(known.aliases.get(rest, rest)):
                return found
        return ends.get(words[-1], OTHER) if len(words) > 1 else OTHER

    return category
