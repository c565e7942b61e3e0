"""What is wrong with captions as texts, whether they hold tags or sentences; sentences are never split at commas."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from lora_studio.core import captions as caption_text
from lora_studio.judge.common import Level, plural
from lora_studio.judge.problems import Problem, gravest_first, verb

LOST = "\ufffd"
FILE_NAME = re.compile(
    r"[^\s,]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|txt|avif)"
    r"|(?:img|dsc[fn]?|pxl|screenshot|image|photo|download)[_\- ]?\d{3,}.*",
    re.IGNORECASE,
)
ENDING = re.compile(r"\.[a-z]{2,4}\d?$")
DOUBLED = r"\b(?!had|that|very|so|no|ha)(\w+)(?: \1\b)+"
"""A word twice in a row, but for those that may well stand so."""
MOST_GROUPS = 60


def lint_prose(
    prose: Mapping[int, str],
    trigger: str = "",
    *,
    alone: bool = True,
    names: Mapping[int, str] | None = None,
    tokens: Mapping[int, Sequence[int]] | None = None,
    limits: Sequence[int] = (),
) -> list[Problem]:
    """What is wrong with captions in sentences (picture id -> text), the gravest first.

    `alone` says that the sentences are all there is, so that each picture needs one and the trigger belongs in it.
    `names`, `tokens` and `limits` are as for `lint`.
    """
    trigger = trigger.strip()
    problems = [
        *(_unsaid(prose, trigger) if alone else ()),
        *letters(prose, prose=True),
        *copied(prose, names or {}, trigger, prose=True),
        *too_long(tokens or {}, limits),
        *_doubled(prose),
        *same({image: " ".join(text.casefold().split()) for image, text in prose.items()}),
    ]
    return gravest_first(problems)


def _unsaid(prose: Mapping[int, str], trigger: str) -> Iterator[Problem]:
    empty = tuple(image for image, text in prose.items() if not text.strip())
    if empty:
        level: Level = "bad" if len(empty) == len(prose) else "warn"
        text = f"{len(empty)} of {plural(len(prose), 'picture')} {verb(empty, 'has', 'have')} no description."
        remedy = "Let a captioner describe them: else nothing says what they show."
        yield Problem("uncaptioned", level, text, remedy, empty)
    if not trigger:
        return
    word = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
    without = tuple(image for image, text in prose.items() if text.strip() and not word.search(text))
    if without:
        text = f"{trigger} is missing in {plural(len(without), 'description')}."
        remedy = "Put it first. Training here does so anyway, but other programs train what is written."
        yield Problem("trigger_missing", "warn", text, remedy, without, {"do": "trigger", "field": "prose"})


def _doubled(prose: Mapping[int, str]) -> Iterator[Problem]:
    doubled = re.compile(DOUBLED, re.IGNORECASE)
    twice = tuple(image for image, text in prose.items() if doubled.search(text))
    if twice:
        text = f"A word stands twice in a row in {plural(len(twice), 'description')}."
        fix = {"do": "regex", "pattern": f"(?i){DOUBLED}", "by": r"\1", "field": "prose"}
        yield Problem("repeat", "info", text, "Keep one of them.", twice, fix)


def letters(texts: Mapping[int, str], prose: bool = False) -> Iterator[Problem]:
    """Texts read in the wrong encoding."""
    strange = {image: text for image, text in texts.items() if not text.isascii()}
    mended = {image: better for image, text in strange.items() if (better := caption_text.repaired(text)) != text}
    if mended:
        image, better = next(iter(mended.items()))
        text = f"{plural(len(mended), 'caption')} {verb(mended, 'holds', 'hold')} letters read in the wrong encoding."
        fix = {"do": "mojibake"} | ({"field": "prose"} if prose else {})
        pairs = [list(pair) for pair in _changed(strange[image], better)][:1]
        remedy = "Repair them; the preview shows each."
        yield Problem("mojibake", "bad", text, remedy, tuple(mended), fix, {"pairs": pairs})
    lost = tuple(image for image, text in strange.items() if LOST in text)
    if lost:
        text = f"{plural(len(lost), 'caption')} {verb(lost, 'has', 'have')} lost letters ({LOST})."
        yield Problem("mojibake", "warn", text, "Import them again from the original files, or write them anew.", lost)


def _changed(text: str, better: str) -> Iterator[tuple[str, str]]:
    """The words that the repair changes."""
    before, after = re.split(r"[\s,]+", text), re.split(r"[\s,]+", better)
    if len(before) == len(after):
        yield from ((one, other) for one, other in zip(before, after, strict=True) if one != other)


def copied(
    texts: Mapping[int, str], names: Mapping[int, str], trigger: str, prose: bool = False, known: Collection[str] = ()
) -> Iterator[Problem]:
    """Captions that are nothing but the name of the picture's file. `known` words are no such names."""
    stems = {image: stem(name) for image, name in names.items()}
    whole = []
    for image, text in texts.items():
        if not text or len(text) > 255 or (plain := stem(text)) == trigger.casefold() or plain in known:
            continue
        if plain == stems.get(image) or FILE_NAME.fullmatch(text.strip()):
            whole.append(image)
    if whole:
        text = f"{plural(len(whole), 'caption')} {verb(whole, 'holds', 'hold')} nothing but the name of a file."
        fix = {"do": "clear"} | ({"field": "prose"} if prose else {})
        remedy = "Empty them and run the auto-tagger: the model would learn the name."
        yield Problem("file_name", "bad", text, remedy, tuple(whole), fix)


def stem(name: str) -> str:
    """A file name without its ending, blanks for underscores, small letters."""
    return " ".join(ENDING.sub("", name.casefold()).replace("_", " ").split())


def too_long(tokens: Mapping[int, Sequence[int]], limits: Sequence[int]) -> Iterator[Problem]:
    """Captions of which an encoder does not read the end. tokens: picture -> its length for each encoder."""
    over = {}
    for image, counts in tokens.items():
        most = max((count - limit for count, limit in zip(counts, limits, strict=False)), default=0)
        if most > 0:
            over[image] = most
    if over:
        limit = min(limits)
        text = f"{plural(len(over), 'caption')} {verb(over, 'is', 'are')} longer than the {limit} tokens that are read."
        worst = max(over.values())
        remedy = f"The end is cut off, {plural(worst, 'token')} at most: shorten them, or put what matters first."
        yield Problem("too_long", "warn", text, remedy, tuple(over), None, {"limit": limit, "most_over": worst})


def same(texts: Mapping[int, str]) -> Iterator[Problem]:
    """Pictures with the same text; empty texts do not count."""
    groups: dict[str, list[int]] = {}
    for image, text in texts.items():
        if text:
            groups.setdefault(text, []).append(image)
    alike = sorted((images for images in groups.values() if len(images) > 1), key=lambda images: -len(images))
    if alike:
        ids = tuple(image for images in alike for image in images)
        largest = f", up to {len(alike[0])} alike" if len(alike) > 1 else ""
        text = f"{len(ids)} pictures share their caption word for word with another one{largest}."
        remedy = "Look whether the pictures are the same too; if not, say in words what differs."
        evidence = {"groups": alike[:MOST_GROUPS], "count": len(alike)}
        yield Problem("identical", "info", text, remedy, ids, None, evidence)
