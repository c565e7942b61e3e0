"""What is wrong with the captions, each with the pictures it is about and, where one exists, the edit that mends it.

Fixes are data, the fields of `steps.caption_edits.CaptionEdit`, for the pictures named in `ids`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from lora_studio.core import captions as caption_text
from lora_studio.core.tags import Book, Exclusive, book, key
from lora_studio.judge import spelling
from lora_studio.judge.common import Level, plural
from lora_studio.judge.tags import keys

MAX_NAMED = 6
ENOUGH = 6
"""With fewer captions, a tag that stands on one picture only says nothing."""
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
FILE_NAME = re.compile(
    r"[^\s,]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|txt|avif)|(?:img|dsc[fn]?|pxl|screenshot|image|photo|download)[_\-]?\d{3,}.*",
    re.IGNORECASE,
)
WEIGHT = re.compile(r"\([^()]+:\s*-?\d*\.?\d+\)|\\[()]")
"""`(smile:1.2)` and `\\(`: ways of writing prompts."""
DOUBLED = r"\b(?!had|that|very|so|no|ha)(\w+)(?: \1\b)+"
LOST = "\ufffd"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in words for the artist."""

    kind: str
    """One of KINDS."""
    level: Level
    text: str
    remedy: str
    ids: tuple[int, ...]
    """The pictures that it is about."""
    fix: dict[str, Any] | None = None
    """The edit that mends it, or None when only the eye can tell."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """The numbers behind it; `tags` and `pairs` of what stands there and what is meant."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "ids": list(self.ids)}


@dataclass(frozen=True)
class Context:
    """The captions and what is known beside them."""

    captions: Mapping[int, str]
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


def lint(
    captions: Mapping[int, str],
    trigger: str = "",
    *,
    names: Mapping[int, str] | None = None,
    scores: Mapping[int, Mapping[str, float]] | None = None,
    tokens: Mapping[int, Sequence[int]] | None = None,
    limits: Sequence[int] = (),
    known: Collection[str] = (),
    vocabulary: Book | None = None,
) -> list[Problem]:
    """What is wrong with captions of tags (picture id -> caption), the gravest first.

    `names` are the pictures' file names; `scores` what the tagger believes of each picture, tag -> probability;
    `tokens` the caption's length for each text encoder and `limits` what each of them reads; `known` further tags that
    are spelt right.
    """
    every, words = keys(captions), vocabulary or book()
    counts = Counter(tag for tags in every.values() for tag in tags)
    found = Context(
        captions, every, trigger.strip(), words, counts, names or {}, scores or {}, tokens or {}, limits, known
    )
    problems = [problem for check in CHECKS for problem in check(found)]
    return _gravest_first(problems)


def _gravest_first(problems: list[Problem]) -> list[Problem]:
    gravity = ("bad", "warn", "info", "good")
    return sorted(problems, key=lambda problem: gravity.index(problem.level))


# --- nothing there ---------------------------------------------------------------------------------------------------


def _uncaptioned(found: Context) -> Iterator[Problem]:
    empty = tuple(image for image, tags in found.tags.items() if not tags)
    if empty:
        level: Level = "bad" if len(empty) == len(found.tags) else "warn"
        text = f"{len(empty)} of {plural(len(found.tags), 'picture')} {_have(empty)} no caption."
        remedy = "Run the auto-tagger on them: else they are trained with the trigger alone."
        if not found.trigger:
            remedy = "Run the auto-tagger on them: else they are trained with no words at all."
        yield Problem("uncaptioned", level, text, remedy, empty)


def _only_trigger(found: Context) -> Iterator[Problem]:
    word = found.trigger.casefold()
    bare = tuple(image for image, tags in found.tags.items() if tags == [word])
    if bare:
        text = f"{plural(len(bare), 'caption')} {_hold(bare)} nothing but the trigger: the whole picture goes into it."
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
        for other, (same, elsewhere) in ours[index + 1 :]:
            if same is group and elsewhere != place:
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
        text = f"{plural(len(pairs), 'tag')} {'has' if len(pairs) == 1 else 'have'} a usual name: {_listed(pairs)}."
        remedy = "Bases that were trained on tags know the usual names, and one word for one thing is learned best."
        evidence = {"pairs": [list(pair) for pair in pairs]}
        yield Problem("alias", "info", text, remedy, ids, {"do": "aliases"}, evidence)


def _typos(found: Context) -> Iterator[Problem]:
    counts = {tag: count for tag, count in found.counts.items() if tag != found.trigger.casefold()}
    pairs = sorted(
        spelling.misspelt(counts, found.book, found.known).items(), key=lambda pair: (-counts[pair[0]], pair)
    )
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
        text = f"{plural(len(tags), 'tag')} {_are(tags)} written with underscores: {_named(tags)}."
        remedy = "Write blanks, as in prompts; faces such as ^_^ stay as they are."
        yield Problem("underscores", "warn", text, remedy, ids, {"do": "underscores"}, {"tags": tags})


def _mojibake(found: Context) -> Iterator[Problem]:
    yield from _letters(found.captions, "caption")


def _letters(texts: Mapping[int, str], which: str) -> Iterator[Problem]:
    strange = {image: text for image, text in texts.items() if not text.isascii()}
    mended = {image: better for image, text in strange.items() if (better := caption_text.repaired(text)) != text}
    if mended:
        image, better = next(iter(mended.items()))
        text = f"{plural(len(mended), 'caption')} {_hold(mended)} letters read in the wrong encoding."
        pairs = [[word, fixed] for word, fixed in _changed(strange[image], better)][:1]
        fix = {"do": "mojibake", **({"field": "prose"} if which == "prose" else {})}
        yield Problem(
            "mojibake", "bad", text, "Repair them; look at the preview first.", tuple(mended), fix, {"pairs": pairs}
        )
    lost = tuple(image for image, text in strange.items() if LOST in text)
    if lost:
        text = f"{plural(len(lost), 'caption')} {_hold(lost)} letters that were lost ({LOST})."
        yield Problem("mojibake", "warn", text, "Import them again from the original files, or write them anew.", lost)


def _changed(text: str, better: str) -> Iterator[tuple[str, str]]:
    before, after = caption_text.split(text), caption_text.split(better)
    if len(before) == len(after):
        yield from ((one, other) for one, other in zip(before, after, strict=True) if one != other)


# --- what does not belong there --------------------------------------------------------------------------------------


def _file_names(found: Context) -> Iterator[Problem]:
    yield from _copied(found, found.captions, whole_only=False)


def _copied(found: Context, texts: Mapping[int, str], whole_only: bool) -> Iterator[Problem]:
    whole, tags = [], set()
    for image, text in texts.items():
        stem = _stem(found.names.get(image, ""))
        plain = _stem(text.strip())
        if plain and (plain == stem or FILE_NAME.fullmatch(text.strip())) and plain != found.trigger.casefold():
            whole.append(image)
        elif not whole_only:
            tags |= {
                tag for tag in found.tags[image] if FILE_NAME.fullmatch(tag) or (tag == stem and _is_named(found, tag))
            }
    if whole:
        text = f"{plural(len(whole), 'caption')} {_hold(whole)} nothing but the name of the picture's file."
        fix = {"do": "clear", **({"field": "prose"} if whole_only else {})}
        remedy = "Empty them and run the auto-tagger: the model would learn the name."
        yield Problem("file_name", "bad", text, remedy, tuple(whole), fix)
    if tags:
        ids = _with(found, tags)
        look = "looks" if len(tags) == 1 else "look"
        text = f"{plural(len(tags), 'tag')} {look} like a file name: {_named(sorted(tags))}."
        fix = {"do": "remove", "tags": sorted(tags)}
        yield Problem("file_name", "warn", text, "Take them out.", ids, fix, {"tags": sorted(tags)})


def _is_named(found: Context, tag: str) -> bool:
    """Whether a tag equal to the file's name is no word of its own: `zorbi 01`, not `smile` of smile.png."""
    return tag not in found.book.tags and tag != found.trigger.casefold() and found.counts[tag] == 1


def _stem(name: str) -> str:
    """A file name without its ending, blanks for underscores, small letters."""
    path = PurePath(name.casefold())
    stem = path.stem if re.fullmatch(r"\.[a-z]{2,4}\d?", path.suffix) else path.name
    return " ".join(stem.replace("_", " ").split())


def _about_the_entry(found: Context) -> Iterator[Problem]:
    tags = sorted(tag for tag in found.counts if key(tag) in NO_PICTURE)
    if tags:
        text = f"{_named(tags)} {'says' if len(tags) == 1 else 'say'} nothing about what the picture shows."
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
        text = f"{plural(len(ids), 'caption')} {_hold(ids)} the writing of prompts, such as (smile:1.2) or \\(."
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
        text = f"{plural(len(ids), 'caption')} {_say(ids)} a thing twice: {shown}{_and_more(len(ranked) - MAX_NAMED)}."
        evidence = {"tags": [f"{general} + {tag}" for general, tag in ranked]}
        remedy = "Take the general word out: the other one says it."
        yield Problem("redundant", "info", text, remedy, tuple(ids), {"do": "redundant"}, evidence)


def _too_long(found: Context) -> Iterator[Problem]:
    yield from too_long(found.tokens, found.limits)


def too_long(tokens: Mapping[int, Sequence[int]], limits: Sequence[int]) -> Iterator[Problem]:
    """Captions of which an encoder does not read the end. tokens: picture -> its length for each encoder."""
    over = {
        image: max(count - limit for count, limit in zip(counts, limits, strict=False))
        for image, counts in tokens.items()
        if limits and any(count > limit for count, limit in zip(counts, limits, strict=False))
    }
    if over:
        limit = min(limits)
        text = f"{plural(len(over), 'caption')} {_are(over)} longer than the {limit} tokens that are read."
        worst = max(over, key=lambda image: (over[image], -image))
        remedy = "Shorten them, or put what matters first: the end is cut off."
        yield Problem("too_long", "warn", text, remedy, tuple(over), None, {"limit": limit, "most_over": over[worst]})


# --- across pictures -------------------------------------------------------------------------------------------------


def _identical(found: Context) -> Iterator[Problem]:
    yield from _same({image: " , ".join(tags) for image, tags in found.tags.items() if len(tags) > 1})


def _same(texts: Mapping[int, str]) -> Iterator[Problem]:
    groups: dict[str, list[int]] = {}
    for image, text in texts.items():
        if text:
            groups.setdefault(text, []).append(image)
    twins = sorted((images for images in groups.values() if len(images) > 1), key=lambda images: -len(images))
    if twins:
        ids = tuple(image for images in twins for image in images)
        text = f"{plural(len(ids), 'caption')} are word for word the same as another one's"
        text += f", at most {len(twins[0])} alike." if len(twins) > 1 else "."
        remedy = "Look whether the pictures are the same too; if not, say in words what differs."
        yield Problem("identical", "info", text, remedy, ids, None, {"groups": twins[:MOST], "count": len(twins)})


def _single(found: Context) -> Iterator[Problem]:
    if sum(bool(tags) for tags in found.tags.values()) < ENOUGH:
        return
    word = found.trigger.casefold()
    single = sorted(tag for tag, count in found.counts.items() if count == 1 and tag != word)
    if single:
        few = f"{len(single)} of {len(found.counts)} different tags"
        text = f"{few} {_stand(single)} on one picture only: {_named(single)}."
        remedy = "Hardly learned from one picture: use the same word for the same thing, or take them out."
        fix = {"do": "remove", "tags": single}
        yield Problem("single", "info", text, remedy, _with(found, set(single)), fix, {"tags": single})


CHECKS: tuple[Callable[[Context], Iterator[Problem]], ...] = (
    _uncaptioned, _file_names, _mojibake, _trigger, _contradictions, _typos, _underscores, _too_long, _aliases,
    _about_the_entry, _prompt_syntax, _repeats, _redundant, _only_trigger, _identical, _single,
)  # fmt: skip
KINDS = (
    "uncaptioned", "file_name", "mojibake", "trigger_missing", "trigger_later", "contradiction", "typo", "underscores",
    "too_long", "alias", "not_visible", "prompt_syntax", "repeat", "redundant", "only_trigger", "identical", "single",
)  # fmt: skip


# --- sentences -------------------------------------------------------------------------------------------------------


def lint_prose(
    prose: Mapping[int, str],
    trigger: str = "",
    *,
    alone: bool = True,
    names: Mapping[int, str] | None = None,
    tokens: Mapping[int, Sequence[int]] | None = None,
    limits: Sequence[int] = (),
) -> list[Problem]:
    """What is wrong with captions in sentences; they are never taken apart at commas.

    `alone` says that the sentences are all there is, so that each picture needs one and the trigger belongs in it.
    """
    found = Context(prose, {}, trigger.strip(), book(), Counter(), names or {}, {}, tokens or {}, limits, ())
    problems = [*_letters(prose, "prose"), *_copied(found, prose, whole_only=True), *too_long(found.tokens, limits)]
    if alone:
        problems += _unsaid(prose, found.trigger)
    doubled = re.compile(DOUBLED, re.IGNORECASE)
    twice = tuple(image for image, text in prose.items() if doubled.search(text))
    if twice:
        fix = {"do": "regex", "pattern": f"(?i){DOUBLED}", "by": r"\1", "field": "prose"}
        text = f"A word stands twice in a row in {plural(len(twice), 'caption')}."
        problems.append(Problem("repeat", "info", text, "Keep one of them.", twice, fix))
    problems += _same({image: " ".join(text.casefold().split()) for image, text in prose.items()})
    return _gravest_first(problems)


def _unsaid(prose: Mapping[int, str], trigger: str) -> Iterator[Problem]:
    empty = tuple(image for image, text in prose.items() if not text.strip())
    if empty:
        level: Level = "bad" if len(empty) == len(prose) else "warn"
        text = f"{len(empty)} of {plural(len(prose), 'picture')} {_have(empty)} no description."
        yield Problem(
            "uncaptioned", level, text, "Let a captioner describe them: else nothing says what they show.", empty
        )
    if trigger:
        word = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
        without = tuple(image for image, text in prose.items() if text.strip() and not word.search(text))
        if without:
            fix = {"do": "trigger", "field": "prose"}
            text = f"{trigger} is missing in {plural(len(without), 'description')}."
            remedy = "Put it first. Training here does so anyway, but other programs train what is written."
            yield Problem("trigger_missing", "warn", text, remedy, without, fix)


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


def _named(tags: Sequence[str]) -> str:
    return ", ".join(tags[:MAX_NAMED]) + _and_more(len(tags) - MAX_NAMED)


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{one} ({other})" for one, other in pairs[:MAX_NAMED]) + _and_more(len(pairs) - MAX_NAMED)


def _and_more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _have(images: Collection[Any]) -> str:
    return "has" if len(images) == 1 else "have"


def _are(things: Collection[Any]) -> str:
    return "is" if len(things) == 1 else "are"


def _hold(images: Collection[Any]) -> str:
    return "holds" if len(images) == 1 else "hold"


def _say(images: Collection[Any]) -> str:
    return "says" if len(images) == 1 else "say"


def _stand(tags: Collection[Any]) -> str:
    return "stands" if len(tags) == 1 else "stand"
