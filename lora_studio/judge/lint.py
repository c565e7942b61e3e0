"""What is wrong with captions of tags: each with its pictures and, where one exists, the edit that mends it.

Fixes are data, the fields of `steps.caption_edits.CaptionEdit`, for the pictures named in `ids`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_studio.core import captions as caption_text
from lora_studio.core.tags import Book, Exclusive, book, key
from lora_studio.judge import spelling
from lora_studio.judge.common import Level, plural
from lora_studio.judge.lint_text import FILE_NAME, copied, letters, same, stem, too_long
from lora_studio.judge.problems import KINDS, MAX_NAMED, Problem, and_more, gravest_first, named, verb
from lora_studio.judge.tags import keys

__all__ = ["KINDS", "Problem", "lint"]

ENOUGH = 6
"""With fewer captions, a tag that stands on one picture only says nothing."""
MANY_SINGLE = 0.4
"""Share of the different tags from which those on one picture are too many."""
MOST = 60
"""Problems of one kind that are told one by one; the rest are the rarest and are told in one sentence."""
SURER = 3
"""Of two tags that contradict each other the one on this many times the pictures is taken for right,"""
SEEN = 0.25
"""or the one that the tagger believes by so much more."""
NO_PICTURE = frozenset(
    [
        "highres", "absurdres", "incredibly absurdres", "lowres", "commentary", "commentary request",
        "english commentary", "translated", "translation request", "bad id", "md5 mismatch", "revision",
        "commission", "fanart",
        "virtual youtuber", "parody", "style parody", "official alternate costume", "official alternate hairstyle",
        "official alternate hair length", "alternate costume", "alternate hairstyle", "alternate hair length",
        "alternate hair color", "official art", "artist request", "character request", "source request", "tagme",
        "check translation", "partial commentary", "symbol-only commentary", "photoshop (medium)",
    ]
)  # fmt: skip
"""Tags about the entry in a collection, or that compare with what is not in the picture (the second half is the list
that the Dataset Maker takes out, facts: formats 2.5)."""
SEVERAL = frozenset(
    [
        "2girls", "3girls", "4girls", "5girls", "6+girls", "multiple girls", "2boys", "3boys", "4boys", "5boys",
        "6+boys", "multiple boys", "multiple others", "crowd", "group", "couple", "everyone", "siblings",
        "sisters", "twins",
    ]
)  # fmt: skip
WEIGHT = re.compile(r"\([^()]+:\s*-?\d*\.?\d+\)|\\[()]")
"""`(smile:1.2)` and `\\(`: ways of writing prompts."""


@dataclass(frozen=True)
class Context:
    """The captions and what is known beside them."""

    captions: Mapping[int, str]
    total: int
    """All pictures, also those with captions that no check looks at any more."""
    tags: Mapping[int, list[str]]
    """In small letters."""
    trigger: str
    book: Book
    counts: Counter[str]
    """Tag -> pictures."""
    names: Mapping[int, str]
    scores: Mapping[int, Mapping[str, float]]
    tokens: Mapping[int, Sequence[int]]
    limits: Sequence[int]
    known: Collection[str]
    slips: Mapping[str, str]
    """Misspelt tag -> what is meant."""


def lint(
    captions: Mapping[int, str],
    trigger: str = "",
    *,
    names: Mapping[int, str] | None = None,
    scores: Mapping[int, Mapping[str, float]] | None = None,
    tokens: Mapping[int, Sequence[int]] | None = None,
    limits: Sequence[int] = (),
    known: Collection[str] = (),
    words: Collection[str] = (),
    vocabulary: Book | None = None,
) -> list[Problem]:
    """What is wrong with captions of tags (picture id -> caption), the gravest first.

    `names` are the pictures' file names; `scores` what the tagger believes of each picture, tag -> probability;
    `tokens` the caption's length for each text encoder and `limits` what each of them reads; `known` further tags and
    `words` words of the language that are spelt right.
    """
    trigger, list_, total = trigger.strip(), vocabulary or book(), len(captions)
    problems = list(copied(captions, names or {}, trigger, known=list_.tags))
    gone = {image for problem in problems for image in problem.ids}  # nothing else need be said of these
    captions = {image: caption for image, caption in captions.items() if image not in gone}
    every = keys(captions)
    counts = Counter(tag for tags in every.values() for tag in tags)
    right = frozenset({*known, trigger.casefold()} - {""})
    slips = spelling.misspelt(counts, list_, right, words)
    found = Context(
        captions, total, every, trigger, list_, counts, names or {}, scores or {}, tokens or {}, limits, right, slips
    )
    problems += [problem for check in CHECKS for problem in check(found)]
    return gravest_first(problems)


# --- nothing there ---------------------------------------------------------------------------------------------------


def _uncaptioned(found: Context) -> Iterator[Problem]:
    empty = tuple(image for image, tags in found.tags.items() if not tags)
    if empty:
        level: Level = "bad" if len(empty) == found.total else "warn"
        text = f"{len(empty)} of {plural(found.total, 'picture')} {verb(empty, 'has', 'have')} no caption."
        remedy = "Run the auto-tagger on them: else they are trained with the trigger alone."
        if not found.trigger:
            remedy = "Run the auto-tagger on them: else they are trained with no words at all."
        yield Problem("uncaptioned", level, text, remedy, empty)


def _only_trigger(found: Context) -> Iterator[Problem]:
    word = found.trigger.casefold()
    bare = tuple(image for image, tags in found.tags.items() if tags == [word])
    if bare:
        hold = verb(bare, "holds", "hold")
        text = f"{plural(len(bare), 'caption')} {hold} nothing but the trigger: the whole picture goes into it."
        yield Problem("only_trigger", "info", text, "Describe what a prompt should still be able to change.", bare)


# --- the trigger -----------------------------------------------------------------------------------------------------


def _trigger(found: Context) -> Iterator[Problem]:
    if not found.trigger:
        return
    word = found.trigger.casefold()
    full = {image: tags for image, tags in found.tags.items() if tags}
    without = tuple(image for image, tags in full.items() if word not in tags)
    later = tuple(image for image, tags in full.items() if word in tags and tags[0] != word)
    if without:
        text = f"{found.trigger} is missing in {plural(len(without), 'caption')}."
        remedy = "Put it first. Training here does so anyway, but other programs train what is written."
        yield Problem("trigger_missing", "warn", text, remedy, without, {"do": "trigger"})
    if later:
        text = f"{found.trigger} is not first in {plural(len(later), 'caption')}."
        remedy = "Put it first, where it is kept in place while the other tags are shuffled."
        yield Problem("trigger_later", "warn", text, remedy, later, {"do": "trigger"})


# --- contradictions --------------------------------------------------------------------------------------------------


def _contradictions(found: Context) -> Iterator[Problem]:
    """Two tags of which a picture (or one person) has one; one problem for each pair and each tag to take out."""
    slots: dict[str, list[tuple[Exclusive, int]]] = {}
    for group in found.book.exclusive:
        for place, slot in enumerate(group.slots):
            for tag in slot:
                slots.setdefault(tag, []).append((group, place))
    clashes: dict[tuple[str, str, str], list[int]] = {}
    for image, tags in found.tags.items():
        ours = [(tag, slot) for tag in tags if tag in slots for slot in slots[tag]]
        if len(ours) > 1:
            for one, other in _clashes(ours, tags):
                wrong = _less_likely(found, image, one, other)
                clashes.setdefault((*sorted((one, other)), wrong), []).append(image)  # type: ignore[arg-type]
    ranked = sorted(clashes.items(), key=lambda item: (-len(item[1]), item[0]))
    for (one, other, wrong), images in ranked[:MOST]:
        yield _contradiction(found, (one, other), wrong, tuple(images))
    if rest := ranked[MOST:]:
        ids = tuple(sorted({image for _, images in rest for image in images}))
        text = f"{len(rest)} further pairs of tags contradict each other."
        yield Problem("contradiction", "warn", text, "Mend the ones above first.", ids)


def _clashes(ours: list[tuple[str, tuple[Exclusive, int]]], tags: Collection[str]) -> set[tuple[str, str]]:
    several = not SEVERAL.isdisjoint(tags) or ("1girl" in tags and "1boy" in tags)
    found = set()
    for index, (one, (group, place)) in enumerate(ours):
        if (group.one_person and several) or not group.unless.isdisjoint(tags):
            continue
        for other, (another, elsewhere) in ours[index + 1 :]:
            if another is group and elsewhere != place:
                found.add((one, other))
    return found


def _less_likely(found: Context, image: int, one: str, other: str) -> str:
    """Which of the two is to be taken out of this picture's caption; empty when nothing tells."""
    scores = found.scores.get(image, {})
    if one in scores or other in scores:
        apart = scores.get(one, 0) - scores.get(other, 0)
        return (other if apart > 0 else one) if abs(apart) >= SEEN else ""
    first, second = found.counts[one], found.counts[other]
    if max(first, second) >= SURER * min(first, second):
        return other if first > second else one
    return ""


def _contradiction(found: Context, pair: tuple[str, str], wrong: str, images: tuple[int, ...]) -> Problem:
    text = f"{pair[0]} and {pair[1]} stand together in {plural(len(images), 'caption')}: only one can be right."
    counted = {tag: found.counts[tag] for tag in pair}
    if not wrong:
        remedy = "Look at the pictures and take the wrong one out."
        return Problem("contradiction", "warn", text, remedy, images, None, {"tags": list(pair), "counts": counted})
    right = pair[0] if wrong == pair[1] else pair[1]
    seen = any(tag in found.scores.get(image, {}) for image in images for tag in pair)
    why = (
        f"The tagger believes {right} more"
        if seen
        else f"{right} is on {plural(counted[right], 'picture')}, {wrong} on {counted[wrong]}"
    )
    evidence = {"tags": list(pair), "counts": counted, "wrong": wrong}
    remedy = f"{why}: take {wrong} out, or look first."
    return Problem("contradiction", "warn", text, remedy, images, {"do": "remove", "tags": [wrong]}, evidence)


# --- spelling --------------------------------------------------------------------------------------------------------


def _aliases(found: Context) -> Iterator[Problem]:
    usual = found.book.aliases
    pairs = [(tag, usual[key(tag)]) for tag in found.counts if key(tag) in usual and tag != found.trigger.casefold()]
    if pairs:
        pairs.sort(key=lambda pair: (-found.counts[pair[0]], pair))
        ids = _with(found, {tag for tag, _ in pairs})
        text = f"{plural(len(pairs), 'tag')} {verb(pairs, 'has', 'have')} a usual name: {_listed(pairs)}."
        remedy = "Bases that were trained on tags know the usual names, and one word for one thing is learned best."
        evidence = {"pairs": [list(pair) for pair in pairs]}
        yield Problem("alias", "info", text, remedy, ids, {"do": "aliases"}, evidence)


def _typos(found: Context) -> Iterator[Problem]:
    pairs = sorted(found.slips.items(), key=lambda pair: (-found.counts[pair[0]], pair))
    by_tag = _by_tag(found, {tag for tag, _ in pairs})
    for wrong, right in pairs[:MOST]:
        ids = tuple(by_tag[wrong])
        text = f"{wrong} stands in {plural(len(ids), 'caption')}: {right} is meant?"
        fix = {"do": "rename", "tags": [wrong], "new": right}
        remedy = "Replace it, or leave it if it is meant."
        level: Level = "warn" if len(ids) <= spelling.RARE else "info"
        yield Problem("typo", level, text, remedy, ids, fix, {"pairs": [[wrong, right]], "count": len(ids)})
    if rest := pairs[MOST:]:
        ids = _with(found, {wrong for wrong, _ in rest})
        text = f"{len(rest)} further tags are perhaps misspelt."
        yield Problem(
            "typo", "info", text, "Mend those above first.", ids, None, {"pairs": [list(pair) for pair in rest]}
        )


def _underscores(found: Context) -> Iterator[Problem]:
    tags = sorted(
        tag for tag in found.counts if "_" in tag and tag not in found.book.tags and caption_text.spaced(tag) != tag
    )
    if tags:
        ids = _with(found, set(tags))
        text = f"{plural(len(tags), 'tag')} {verb(tags, 'is', 'are')} written with underscores: {named(tags)}."
        remedy = "Write blanks, as in prompts; faces such as ^_^ stay as they are."
        yield Problem("underscores", "warn", text, remedy, ids, {"do": "underscores"}, {"tags": tags})


def _mojibake(found: Context) -> Iterator[Problem]:
    yield from letters(found.captions)


# --- what does not belong there --------------------------------------------------------------------------------------


def _file_names(found: Context) -> Iterator[Problem]:
    """Tags among others that look like a file's name."""
    stems = {stem(name) for name in found.names.values()} - found.book.tags.keys() - {found.trigger.casefold()}
    tags = {
        tag
        for tag, count in found.counts.items()
        if FILE_NAME.fullmatch(tag) or (count == 1 and any(map(str.isdigit, tag)) and stem(tag) in stems)
    }
    if tags:
        there, ids = sorted(tags), _with(found, tags)
        text = f"{plural(len(there), 'tag')} {verb(there, 'looks', 'look')} like a file name: {named(there)}."
        yield Problem(
            "file_name", "warn", text, "Take them out.", ids, {"do": "remove", "tags": there}, {"tags": there}
        )


def _about_the_entry(found: Context) -> Iterator[Problem]:
    tags = sorted(tag for tag in found.counts if key(tag) in NO_PICTURE)
    if tags:
        text = f"{named(tags)} {verb(tags, 'says', 'say')} nothing about what the picture shows."
        fix = {"do": "remove", "tags": tags}
        remedy = "Take them out: the model cannot see what they mean."
        yield Problem("not_visible", "info", text, remedy, _with(found, set(tags)), fix, {"tags": tags})


def _prompt_syntax(found: Context) -> Iterator[Problem]:
    ids = tuple(
        image
        for image, caption in found.captions.items()
        if ("\\" in caption or ":" in caption) and WEIGHT.search(caption)
    )
    if ids:
        hold = verb(ids, "holds", "hold")
        text = f"{plural(len(ids), 'caption')} {hold} the writing of prompts, such as (smile:1.2) or \\(."
        remedy = "Take the backslashes out. Weights count only where weighted captions are switched on in Training."
        escaped = tuple(image for image in ids if re.search(r"\\[()]", found.captions[image]))
        fix = {"do": "regex", "pattern": r"\\([()])", "by": r"\1"} if escaped else None
        yield Problem("prompt_syntax", "info", text, remedy, escaped or ids, fix)


# --- too much --------------------------------------------------------------------------------------------------------


def _repeats(found: Context) -> Iterator[Problem]:
    ids = tuple(
        image
        for image, caption in found.captions.items()
        if caption and caption.count(",") + caption.count("\n") + 1 != len(found.tags[image])
    )
    if ids:
        text = f"A tag stands twice, or empty between two commas, in {plural(len(ids), 'caption')}."
        yield Problem("repeat", "info", text, "Keep each once.", ids, {"do": "dedupe"})


def _redundant(found: Context) -> Iterator[Problem]:
    implied = {tag: found.book.implied(key(tag)) & found.counts.keys() for tag in found.counts}
    says = {tag: general for tag, general in implied.items() if general}
    pairs: Counter[tuple[str, str]] = Counter()
    ids = []
    for image, tags in found.tags.items():
        there = set(tags)
        here = {(general, tag) for tag in tags if tag in says for general in says[tag] if general in there}
        pairs.update(here)
        if here:
            ids.append(image)
    if ids:
        ranked = [pair for pair, _ in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))]
        shown = ", ".join(f"{general} beside {tag}" for general, tag in ranked[:MAX_NAMED])
        say, more = verb(ids, "says", "say"), and_more(len(ranked) - MAX_NAMED)
        text = f"{plural(len(ids), 'caption')} {say} a thing twice: {shown}{more}."
        evidence = {"tags": [f"{general} + {tag}" for general, tag in ranked]}
        remedy = "Take the general word out: the other one says it."
        yield Problem("redundant", "info", text, remedy, tuple(ids), {"do": "redundant"}, evidence)


def _too_long(found: Context) -> Iterator[Problem]:
    yield from too_long(found.tokens, found.limits)


# --- across pictures -------------------------------------------------------------------------------------------------


def _identical(found: Context) -> Iterator[Problem]:
    yield from same({image: " , ".join(tags) for image, tags in found.tags.items() if len(tags) > 1})


def _single(found: Context) -> Iterator[Problem]:
    """Tags on one picture only: those that no list knows mostly are slips; the base knows the others already."""
    if sum(bool(tags) for tags in found.tags.values()) < ENOUGH:
        return
    word = found.trigger.casefold()
    single = sorted(tag for tag, count in found.counts.items() if count == 1 and tag != word)
    listed = (found.book.tags, found.book.aliases, found.known, found.slips)
    strange = [
        tag
        for tag in single
        if not any(tag in words or key(tag) in words for words in listed) and not FILE_NAME.fullmatch(tag)
    ]
    few = f"of {len(found.counts)} different tags"
    if strange:
        text = (
            f"{len(strange)} {few} {verb(strange, 'is', 'are')} on no list and on one picture only: {named(strange)}."
        )
        remedy = "Hardly learned from one picture: use the same word for the same thing, or take them out."
        fix = {"do": "remove", "tags": strange}
        yield Problem("single", "info", text, remedy, _with(found, set(strange)), fix, {"tags": strange})
    if len(single) >= max(MANY_SINGLE * len(found.counts), 5):
        text = f"{len(single)} {few} stand on one picture only: {named(single)}."
        remedy = "So many words teach little: use the same word for the same thing."
        yield Problem("single", "info", text, remedy, _with(found, set(single)), None, {"tags": single})


CHECKS: tuple[Callable[[Context], Iterator[Problem]], ...] = (
    _uncaptioned, _file_names, _mojibake, _trigger, _contradictions, _typos, _underscores, _too_long, _aliases,
    _about_the_entry, _prompt_syntax, _repeats, _redundant, _only_trigger, _identical, _single,
)  # fmt: skip
# --- words -----------------------------------------------------------------------------------------------------------


def _by_tag(found: Context, tags: Collection[str]) -> dict[str, list[int]]:
    images: dict[str, list[int]] = {tag: [] for tag in tags}
    for image, here in found.tags.items():
        for tag in here:
            if tag in images:
                images[tag].append(image)
    return images


def _with(found: Context, tags: set[str]) -> tuple[int, ...]:
    """The pictures that have one of the tags."""
    return tuple(image for image, here in found.tags.items() if not tags.isdisjoint(here))


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{one} ({other})" for one, other in pairs[:MAX_NAMED]) + and_more(len(pairs) - MAX_NAMED)
