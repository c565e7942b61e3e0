"""Will these captions teach what the plan wants? Counts tags; what a picture truly shows only the eye can tell."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping

from lora_studio.core.captions import split
from lora_studio.judge.common import Finding, plural

NEARLY_ALL = 0.8
"""From this share of the pictures on a tag is tied to the subject: the trigger and the tag share its meaning."""
ENOUGH = 6
"""With fewer captions, shares say nothing."""
LIKE = 0.84
"""Similarity from which two spellings count as one (difflib's ratio; `smile` and `smlie` have 0.8, hence the letters
are compared sorted as well)."""
MAX_NAMED = 6
COLOURS = (
    "black", "white", "grey", "gray", "brown", "blonde", "red", "orange", "yellow", "green", "blue", "purple", "pink",
    "silver", "aqua",
)  # fmt: skip
# Things of which a picture of one subject has one colour; two of them in a caption contradict each other.
ONE_COLOUR = ("hair", "eyes", "background", "skin")
EXCLUSIVE: tuple[tuple[str, ...], ...] = (
    ("light skin", "tan skin", "dark skin", "pale skin", "dark-skinned female", "dark-skinned male"),
    ("short hair", "long hair", "very long hair", "medium hair", "bald"),
    ("facing left", "facing right"),
    ("indoors", "outdoors"),
    ("day", "night"),
    ("open eyes", "closed eyes"),
    ("close-up", "full body"),
)
MULTI = ("multicolored", "two-tone", "gradient", "streaked", "heterochromia")
"""Tags with which two colours are right."""


def tag_counts(captions: Mapping[int, str]) -> list[tuple[str, int]]:
    """Tags with the number of pictures that have them, the most frequent first."""
    counts: Counter[str] = Counter()
    for caption in captions.values():
        counts.update(split(caption))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def findings(captions: Mapping[int, str], trigger: str, kind: str, varies: Iterable[str] = ()) -> list[Finding]:
    """What stands against training on these captions (picture id -> caption), the gravest first.

    `varies` are the plan's words for what may change; tags among them are never advised to be pruned.
    """
    tags = {image: split(caption) for image, caption in captions.items()}
    if not tags:
        return [Finding("info", "There are no pictures to caption yet.", "Gather some first.")]
    captioned = {image: found for image, found in tags.items() if found}
    found = [
        _uncaptioned(tags),
        *_trigger(captioned, trigger),
        *_contradictions(captioned),
        _absorbed(captioned, trigger, kind, varies),
        _spelling(captioned, trigger),
        _single(captioned, trigger),
        _only_trigger(captioned, trigger),
    ]
    problems = [finding for finding in found if finding is not None]
    if not any(finding.level in ("warn", "bad") for finding in problems):
        problems.insert(0, Finding("good", f"All {plural(len(captioned), 'caption')} look right."))
    gravity = ("bad", "warn", "good", "info")
    return sorted(problems, key=lambda finding: gravity.index(finding.level))


def _uncaptioned(tags: Mapping[int, list[str]]) -> Finding | None:
    empty = tuple(image for image, found in tags.items() if not found)
    if not empty:
        return None
    level = "bad" if len(empty) == len(tags) else "warn"
    text = (
        f"{len(empty)} of {plural(len(tags), 'picture')} have no caption; they would be trained with the trigger alone."
    )
    return Finding(level, text, "Run the auto-tagger on them.", empty, {"count": len(empty), "total": len(tags)})


def _trigger(tags: Mapping[int, list[str]], trigger: str) -> list[Finding]:
    if not trigger:
        text = "There is no trigger word: the LoRA will always act, on every prompt."
        return [Finding("warn", text, "Name one in Conception, if you want to call it by a word.")] if tags else []
    word = trigger.casefold()
    without = tuple(image for image, found in tags.items() if word not in (tag.casefold() for tag in found))
    later = tuple(image for image, found in tags.items() if image not in without and found[0].casefold() != word)
    problems = []
    if without:
        text = (
            f"{trigger} is missing in {plural(len(without), 'caption')}: what these pictures teach is not tied to it."
        )
        problems.append(
            Finding("bad", text, "Put the trigger first in all captions.", without, {"count": len(without)})
        )
    if later:
        text = f"{trigger} is not first in {plural(len(later), 'caption')}: only the first tag stays in place."
        problems.append(Finding("warn", text, "Put the trigger first in all captions.", later, {"count": len(later)}))
    return problems


def _contradictions(tags: Mapping[int, list[str]]) -> list[Finding]:
    """Two values of one thing in one caption: `blue hair` and `green hair`; or two of an exclusive group."""
    clashes: dict[tuple[str, ...], list[int]] = {}
    for image, found in tags.items():
        names = [tag.casefold() for tag in found]
        several = any(word in tag for tag in names for word in MULTI)
        for thing in () if several else ONE_COLOUR:
            coloured = {f"{colour} {thing}" for colour in COLOURS}
            pair = tuple(sorted(tag for tag in names if tag in coloured))
            if len(pair) > 1:
                clashes.setdefault(pair, []).append(image)
        for group in EXCLUSIVE:
            pair = tuple(sorted(tag for tag in names if tag in group))
            if len(pair) > 1:
                clashes.setdefault(pair, []).append(image)
    return [
        Finding(
            "warn",
            f"{' and '.join(pair)} stand together in {plural(len(images), 'caption')}; only one can be right.",
            "Look at these pictures and take the wrong tag out.",
            tuple(images),
            {"tags": list(pair)},
        )
        for pair, images in sorted(clashes.items(), key=lambda item: -len(item[1]))
    ]


def _absorbed(tags: Mapping[int, list[str]], trigger: str, kind: str, varies: Iterable[str]) -> Finding | None:
    """Tags on nearly all pictures. A tag that always stands beside the trigger shares its meaning: without it the
    prompt later gives only a part of the subject (guide and the author's Dataset Maker: prune so that the trigger
    absorbs them)."""
    if len(tags) < ENOUGH:
        return None
    counts = Counter(tag.casefold() for found in tags.values() for tag in found)
    kept = {word.strip().casefold() for word in varies} | {trigger.casefold()}
    share = {
        tag: count / len(tags) for tag, count in counts.items() if tag not in kept and count / len(tags) >= NEARLY_ALL
    }
    if not share:
        return None
    names = sorted(share, key=lambda tag: (-share[tag], tag))
    listed = ", ".join(f"{tag} ({round(share[tag] * 100)} %)" for tag in names[:MAX_NAMED])
    have = "stands" if len(names) == 1 else "stand"
    remedy = {
        "character": "If they belong to the character (face, hair, build), prune them: the trigger takes them over. "
        "Keep those that a prompt should still change, such as clothes.",
        "style": "If they describe the style, prune them: the trigger takes it over. If they describe what is shown, "
        "the set is too one-sided: add other subjects.",
        "concept": "Prune those that say the concept in other words. Keep what merely happens to be in all pictures, "
        "and add pictures without it.",
    }[kind]
    # `share` is what Tagging offers to prune
    evidence = {"tags": names, "share": {tag: round(share[tag], 2) for tag in names}}
    return Finding(
        "info", f"{listed} {have} on nearly all pictures and would share the trigger's meaning.", remedy, (), evidence
    )


def _spelling(tags: Mapping[int, list[str]], trigger: str) -> Finding | None:
    """A tag of one or two pictures that is spelt almost like a frequent one."""
    counts = Counter(tag.casefold() for found in tags.values() for tag in found if tag.casefold() != trigger.casefold())
    frequent = [tag for tag, count in counts.items() if count >= 3]
    pairs = []
    for tag, count in counts.items():
        if count > 2 or len(tag) < 4:
            continue
        near = [other for other in frequent if counts[other] >= 3 * count and _alike(tag, other)]
        if near:
            pairs.append((tag, max(near, key=lambda other: counts[other])))
    if not pairs:
        return None
    text = "Perhaps misspelt: " + ", ".join(f"{tag} (for {other})" for tag, other in pairs[:MAX_NAMED]) + "."
    wrong = {tag for tag, _ in pairs}
    images = tuple(image for image, found in tags.items() if wrong & {tag.casefold() for tag in found})
    return Finding(
        "warn",
        text,
        "Replace them, or leave them if they are meant.",
        images,
        {"pairs": [list(pair) for pair in pairs]},
    )


def _alike(one: str, other: str) -> bool:
    """Spelt almost alike. Words that differ as whole words (red hair, blue hair) or by a digit are different tags."""
    if one.split() == other.split() or any(char.isdigit() for char in one + other):
        return False
    words, others = one.replace("_", " ").split(), other.replace("_", " ").split()
    if words == others:
        return True
    if len(words) != len(others):
        return one.replace(" ", "") == other.replace(" ", "")
    different = [(first, second) for first, second in zip(words, others, strict=True) if first != second]
    if len(different) != 1:
        return False
    first, second = different[0]
    if min(len(first), len(second)) < 4:
        return False
    swapped = sorted(first) == sorted(second)
    return swapped or (first[0] == second[0] and difflib.SequenceMatcher(None, first, second).ratio() >= LIKE)


def _single(tags: Mapping[int, list[str]], trigger: str) -> Finding | None:
    if len(tags) < ENOUGH:
        return None
    counts = Counter(tag.casefold() for found in tags.values() for tag in found)
    single = sorted(tag for tag, count in counts.items() if count == 1 and tag != trigger.casefold())
    if len(single) < 0.4 * len(counts) or len(single) < 5:
        return None
    text = f"{len(single)} of {len(counts)} different tags are on one picture only and will hardly be learned."
    return Finding("info", text, "Use the same word for the same thing.", (), {"tags": single})


def _only_trigger(tags: Mapping[int, list[str]], trigger: str) -> Finding | None:
    bare = tuple(image for image, found in tags.items() if [tag.casefold() for tag in found] == [trigger.casefold()])
    if not bare:
        return None
    text = f"{plural(len(bare), 'caption')} hold nothing but the trigger: the whole picture goes into it."
    return Finding("info", text, "Describe what should stay changeable.", bare, {"count": len(bare)})
