"""The words to choose from while captioning: our own list, the tagger's, and those that the project uses already."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from lora_studio.core import captions, paths, tags
from lora_studio.core.project import Plan, Project
from lora_studio.core.tags import Book, book, categoriser

Word = tuple[str, str, int, str]
"""Tag, its category, how many pictures have it, and the tag that it is another name of (else empty)."""
CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"  # of open_clip, which is read as a file and never imported here
CLIP_MERGES = 49152 - 256 - 2 + 1  # the file holds more than CLIP uses
TAGGER_FILE, WD_FILE = "vocabulary.json", "selected_tags.csv"
WD_CATEGORIES = {"0": tags.OTHER, "4": "character", "9": "rating"}
"""The numbers in a WD tagger's list (facts: formats 2.4)."""

__all__ = [
    "Book",
    "Word",
    "aliases",
    "book",
    "categories",
    "category",
    "english",
    "implications",
    "tagger_words",
    "words",
]


def aliases() -> Mapping[str, str]:
    """Other names and spellings -> the usual tag, in small letters."""
    return book().aliases


def implications() -> Mapping[str, tuple[str, ...]]:
    """Tag -> what it says as well: `red hat` -> `hat`."""
    return book().implications


def category(tag: str, plan: Plan | None = None) -> str:
    """The kind of a tag by our list, then by the plan's tagger, then by its last words; else `other`."""
    return categories(plan)(tag)


def categories(plan: Plan | None = None) -> tags.Categoriser:
    """The function from a tag to its category, to ask it many times. That of the plan's trigger is `trigger`."""
    if plan is None:
        return _categories((), "")
    return _categories(tuple(tagger_words(plan).items()), plan.trigger.casefold())


@lru_cache(maxsize=4)
def _categories(more: tuple[tuple[str, str], ...], trigger: str) -> tags.Categoriser:
    of = categoriser(dict(more))
    return lambda tag: "trigger" if trigger and tag.casefold() == trigger else of(tag)


def tagger_words(plan: Plan) -> dict[str, str]:
    """What the plan's tagger can say -> its categories, where its list is on this disk."""
    folder = paths.assets() / "starter" / "tagger" if plan.tagger == "starter" else Path(plan.tagger).expanduser()
    for path in (folder / TAGGER_FILE, folder / WD_FILE, *_fetched(plan.tagger)):
        if path.is_file():
            return _read(str(path), path.stat().st_mtime_ns)
    return {}


def _fetched(name: str) -> list[Path]:
    """The tag lists of that name in the hub's cache."""
    repo = name.partition("@")[0]
    if repo.count("/") != 1 or Path(repo).is_absolute():
        return []
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "snapshots"
    return sorted(folder.glob(f"*/{WD_FILE}"))


@lru_cache(maxsize=8)
def _read(path: str, changed: int) -> dict[str, str]:
    """`changed` only tells when to read again. A list that cannot be read has no words: the tagger itself says why."""
    try:
        text = Path(path).read_text("utf-8")
        if path.endswith(".json"):
            return {entry["name"].casefold(): entry.get("category", tags.OTHER) for entry in json.loads(text)["tags"]}
        rows = csv.DictReader(text.splitlines())
        return {captions.spaced(row["name"]).casefold(): WD_CATEGORIES.get(row["category"], tags.OTHER) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return {}


@cache
def english() -> frozenset[str]:
    """Words that are one token of CLIP's vocabulary, hence common on the net and no slips; few misspelt ones are among
    them (of 28 tried, 3 that are words of another language)."""
    found = find_spec("open_clip")
    path = Path(found.origin).with_name(CLIP_FILE) if found and found.origin else None
    if path is None or not path.is_file():
        return frozenset()
    merges = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1:CLIP_MERGES]
    return frozenset(merge.replace(" ", "").removesuffix("</w>") for merge in merges if merge.endswith("</w>"))


def words(project: Project) -> list[Word]:
    """Every word to complete to, the most used ones first, then our list in its order, then the tagger's."""
    counts: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for caption in project.texts("caption", used=True).values():
        for tag in captions.split(caption):
            spelling.setdefault(tag.casefold(), tag)
            counts[tag.casefold()] += 1
    known, kind = book(), categories(project.plan)
    used = sorted(counts, key=lambda tag: (-counts[tag], tag))
    rest = [*known.tags, *known.aliases, *tagger_words(project.plan)]
    found = dict.fromkeys([*used, *rest])
    return [(spelling.get(tag, tag), kind(tag), counts[tag], known.aliases.get(tag, "")) for tag in found]
