"""What the trigger word takes into its meaning, and what should therefore stand in the captions or not.

What a caption names stays apart from the trigger, what it leaves out goes into the trigger (the guide; the author's
Dataset Maker: prune common tags such as hair colour, they are absorbed by the activation tag). A tag on nearly every
picture is in between: it shares the meaning, and the prompt needs both.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_studio.core.tags import Book, Categoriser, book, key
from lora_studio.judge.captions import ENOUGH, NEARLY_ALL
from lora_studio.judge.common import plural
from lora_studio.judge.tags import joint, keys, spellings

INHERENT = ("hair colour", "hair", "eye colour", "eyes", "skin", "body", "marks", "features")
"""What a character keeps when it changes clothes, mood and place."""
CONCEPTUAL = (
    "clothes", "headwear", "eyewear", "footwear", "accessories", "pose", "action", "objects", "animals", "food",
    "vehicles", "features", "marks", "expression", "lighting", "angle", "framing", "hair",
)  # fmt: skip
"""Kinds of tags of which one may be the concept itself."""
LOOK = ("style", "medium", "colours")
NAMES = ("character", "copyright")
"""Kinds of names that lists of taggers and sites have."""
ASIDE = ("count", "quality", "rating")
"""Kinds of tags of which nothing is said: they are right on every picture."""
FREQUENT = 0.5
"""Share of the pictures from which a trait is the character's own, when the plan does not say,"""
NAMED = 0.1
"""and when the plan names its kind: below, it is the tagger's slip rather than a habit of the captions."""
TIED = 0.9
"""Of two tags, the pictures that have both as a share of those that have one of them, from which they are one thing."""
MOST_TAGS = 400
MOST_FUSED = 40
MOST_NAMED = 5
AT_LEAST = 3
"""Pictures that two tags must share."""
Action = Literal["prune", "keep"]


@dataclass(frozen=True)
class Proposal:
    """What to do with one tag."""

    tag: str
    share: float
    """Share of the pictures that have it."""
    category: str
    action: Action
    why: str


@dataclass(frozen=True)
class Fused:
    """Tags that the LoRA cannot tell apart, the trigger among them or not."""

    tags: tuple[str, ...]
    share: float
    """Share of the pictures that have all of them."""
    text: str
    """What follows from it, and the way out."""


@dataclass(frozen=True)
class Absorbed:
    """Tags to prune, tags to keep, and tags that are learned as one thing."""

    proposals: tuple[Proposal, ...]
    fused: tuple[Fused, ...]


@dataclass(frozen=True)
class Answers:
    """What the plan says, and the words for it."""

    trigger: str = ""
    defining: Sequence[str] = ()
    varies: Sequence[str] = ()
    avoid: Sequence[str] = ()
    prune_tags: Sequence[str] = ()


def absorbed(
    captions: Mapping[int, str], kind: str, answers: Answers, category: Categoriser, vocabulary: Book | None = None
) -> Absorbed:
    """Judge the captions (picture id -> caption of tags) for a LoRA of this kind: character, style or concept.

    With fewer than six captions there are no proposals: shares say nothing then.
    """
    every = {image: tags for image, tags in keys(captions).items() if tags}
    if len(every) < ENOUGH:
        return Absorbed((), ())
    words = vocabulary or book()
    written, counts = spellings(captions), Counter(tag for tags in every.values() for tag in tags)
    share = {tag: count / len(every) for tag, count in counts.items() if tag != answers.trigger.casefold()}
    judge = {"character": _character, "style": _style, "concept": _concept}[kind]
    proposals = []
    for tag in sorted(share, key=lambda one: (-share[one], one)):
        said = _Said(tag, share[tag], category(tag), answers, words)
        if verdict := judge(said):
            proposals.append(Proposal(written[tag], share[tag], said.category, *verdict))
    if kind == "character":
        proposals = _more_precise(proposals, share, category, answers, words, written)
    proposals.sort(key=lambda one: one.action != "prune")
    gone = {one.tag.casefold() for one in proposals if one.action == "prune"}
    fused = [*_with_trigger(share, gone, kind, answers, category, written), *_pairs(every, share, gone, words, written)]
    return Absorbed(tuple(proposals), tuple(fused[:MOST_FUSED]))


def _more_precise(
    proposals: list[Proposal],
    share: Mapping[str, float],
    category: Categoriser,
    answers: Answers,
    words: Book,
    written: Mapping[str, str],
) -> list[Proposal]:
    """The proposals, and to prune what says a pruned trait more precisely: `very long hair` where `long hair` goes."""
    known = {key(one.tag) for one in proposals if one.action == "prune" and one.category in INHERENT}
    told = {one.tag.casefold() for one in proposals if one.action == "prune"}
    more = []
    for tag in sorted(share, key=lambda one: (-share[one], one)):
        said = sorted(words.implied(key(tag)) & known)
        if said and tag not in told and not _Said(tag, share[tag], category(tag), answers, words).varies:
            why = f"It says {said[0]} as well, which is to be pruned."
            more.append(Proposal(written[tag], share[tag], category(tag), "prune", why))
    gone = {one.tag for one in more}
    return [*(one for one in proposals if one.tag not in gone), *more]


@dataclass(frozen=True)
class _Said:
    """One tag, and which of the plan's words speak of it."""

    tag: str
    share: float
    category: str
    answers: Answers
    words: Book

    @property
    def percent(self) -> str:
        return f"{round(100 * self.share)} %"

    @property
    def defining(self) -> str:
        return self._named(self.answers.defining, by_kind=False)

    @property
    def pruned(self) -> bool:
        return self.tag in {tag.casefold() for tag in self.answers.prune_tags}

    @property
    def varies(self) -> str:
        return self._named(self.answers.varies, by_kind=True)

    @property
    def avoid(self) -> str:
        return self._named(self.answers.avoid, by_kind=False)

    @property
    def sibling(self) -> str:
        """The plan's defining word of the same kind: `twintails` for `bob cut`."""
        return next((word for word in self.answers.defining if self._category(word) == self.category), "")

    def _named(self, said: Sequence[str], by_kind: bool) -> str:
        """The first of the words that names the tag, or (where asked for) its kind."""
        return next((word for word in said if self._is(word) or (by_kind and self._is_kind(word))), "")

    def _is(self, word: str) -> bool:
        """The same words, or one of them within the other: `shirt` names `red shirt`."""
        name, tag = key(word.strip()), key(self.tag)
        name, tag = self.words.aliases.get(name, name), self.words.aliases.get(tag, tag)
        inner, outer = name.split(" "), tag.split(" ")
        ends = len(inner) < len(outer) and outer[-len(inner) :] == inner
        holds = len(outer) > 1 and f" {tag} " in f" {name} "
        return name == tag or ends or holds

    def _is_kind(self, word: str) -> bool:
        name = key(word.strip())
        kind = self.words.categories.get(self.category)
        return bool(name) and (name == self.category or (kind is not None and name in (*kind.also, kind.group)))

    def _category(self, word: str) -> str:
        name = key(word.strip())
        return self.words.tags.get(self.words.aliases.get(name, name), "")


Verdict = tuple[Action, str] | None


def _plan_says(said: _Said) -> Verdict:
    """What holds for every kind of LoRA."""
    if said.pruned:
        return "prune", f"The plan prunes it, yet it stands on {said.percent} of the pictures."
    if (word := said.defining) and (not said.varies or _exactly(said)):
        return "prune", f"The plan names {word} as defining: without the tag, {_who(said)} stands for it."
    if word := said.avoid:
        text = f"The plan says {word} must not be learned: named in the captions it stays apart from {_who(said)}."
        return "keep", f"{text} Better still, take the pictures out."
    return None


def _who(said: _Said) -> str:
    return said.answers.trigger or "the LoRA"


def _character(said: _Said) -> Verdict:
    if verdict := _plan_says(said):
        return verdict
    if (word := said.varies) and said.share >= FREQUENT:
        return "keep", f"The plan says {word} may change: as a tag it can be changed by a prompt."
    if said.category in NAMES and said.share >= FREQUENT:
        return "prune", f"It names the character again: without it, {_who(said)} alone stands for the character."
    if said.category in INHERENT and not said.varies:
        if (word := said.sibling) and said.share >= NAMED:
            return "prune", (
                f"The plan says {word}; {said.tag} on {said.percent} of the pictures speaks of the same trait. "
                f"Left in, {_who(said)} would have two kinds of {said.category}."
            )
        if said.share >= FREQUENT:
            return "prune", (
                f"A trait ({said.category}) on {said.percent} of the pictures belongs to the character: without the "
                f"tag, {_who(said)} stands for it and a short prompt gives the whole character."
            )
    if said.share >= FREQUENT and said.category not in ASIDE:
        return "keep", f"No trait of the character ({said.category}): as a tag it can be changed by a prompt."
    return None


def _exactly(said: _Said) -> bool:
    """The plan's defining words name this very tag; its varying ones only its kind."""
    return any(key(word.strip()) == key(said.tag) for word in said.answers.defining)


def _style(said: _Said) -> Verdict:
    if verdict := _plan_says(said):
        return verdict
    if said.category in (*LOOK, "artist"):
        return "prune", (
            f"It describes the style, on {said.percent} of the pictures: without it the style goes into {_who(said)} "
            "alone."
        )
    if said.share >= FREQUENT and said.category not in ASIDE:
        return (
            "keep",
            f"It is what the pictures show ({said.category}): named in the captions it stays out of the style.",
        )
    return None


def _concept(said: _Said) -> Verdict:
    if verdict := _plan_says(said):
        return verdict
    trigger = key(said.answers.trigger)
    if trigger and said._is(trigger):
        return "prune", f"It says the concept again: without it, {_who(said)} alone stands for it."
    if said.words.tags.get(trigger) == said.category in CONCEPTUAL and said.share >= NAMED and not said.varies:
        return "prune", (
            f"The same kind of thing as {_who(said)} ({said.category}), on {said.percent} of the pictures: as a tag it "
            "would take a part of the concept."
        )
    if said.share >= NEARLY_ALL and said.category in CONCEPTUAL and not said.varies and not said.answers.defining:
        return "prune", f"On {said.percent} of the pictures: if this is the concept, {_who(said)} alone should say it."
    if said.share >= FREQUENT and said.category not in ASIDE:
        if said.category in LOOK:
            return "keep", f"How the pictures are made is not the concept: named, the style stays out of {_who(said)}."
        return (
            "keep",
            f"It merely happens to be there ({said.category}): named in the captions it stays out of the concept.",
        )
    return None


def _with_trigger(
    share: Mapping[str, float],
    gone: set[str],
    kind: str,
    answers: Answers,
    category: Categoriser,
    written: Mapping[str, str],
) -> list[Fused]:
    """Tags on nearly all pictures that stay in the captions: they share the trigger's meaning."""
    trigger = answers.trigger or "the LoRA"
    found = []
    for tag in sorted(share, key=lambda one: (-share[one], one)):
        if share[tag] < NEARLY_ALL or tag in gone or category(tag) in ASIDE:
            continue
        words = book().categories.get(category(tag))
        text = _follows(written[tag], round(100 * share[tag]), words.group if words else "", kind, trigger)
        found.append(Fused((answers.trigger, written[tag]) if answers.trigger else (written[tag],), share[tag], text))
    return found


FOLLOWS: dict[str, tuple[str, str]] = {
    "look": ("{0} will be drawn so always", "Name the style in prompts, and add pictures in another style"),
    "wear": ("{0} will hardly be drawn without it", "Add images without the typical clothes, to tell the two apart"),
    "scene": ("{0} will bring it along", "Add pictures in other surroundings and other light"),
    "camera": ("Other views of {0} will be hard to get", "Add pictures from other distances and angles"),
    "act": ("{0} will hardly do or show anything else", "Add pictures with other poses and moods"),
    "thing": ("{0} will bring it along", "Add pictures without it"),
    "person": ("{0} and this trait are learned as one", "Prune it if it belongs to the subject, else add others"),
    "meta": ("It will be learned as well", "Crop it away, or leave such pictures out"),
}
"""By what a tag is about: what follows when it stands on nearly every picture, and the way out."""
STYLE_FOLLOWS = (
    "Whatever is drawn in this style will tend to it",
    "Add other subjects, so that only the style is learned",
)
OTHER_FOLLOWS = ("{0} will bring it along", "Add pictures without it, or prune it if it belongs to the subject")


def _follows(tag: str, percent: int, group: str, kind: str, trigger: str) -> str:
    """What comes of a tag on nearly every picture."""
    follows, remedy = STYLE_FOLLOWS if kind == "style" else FOLLOWS.get(group, OTHER_FOLLOWS)
    bleed = "; prompts without the trigger may change too (style bleed)" if group == "look" else ""
    return f"{tag} is on {percent} % of the pictures. {follows.format(trigger)}{bleed}. {remedy}."


def _pairs(
    every: Mapping[int, list[str]],
    share: Mapping[str, float],
    gone: set[str],
    words: Book,
    written: Mapping[str, str],
) -> list[Fused]:
    """Groups of tags that hardly stand without each other, and are not on nearly all pictures anyway."""
    total = len(every)
    names = [
        tag
        for tag in sorted(share, key=lambda one: (-share[one], one))
        if tag not in gone and share[tag] < NEARLY_ALL and share[tag] * total >= AT_LEAST
    ][:MOST_TAGS]
    if len(names) < 2:
        return []
    both = joint(every, names)
    alone = np.diagonal(both)
    tied = both / np.maximum(alone[:, None] + alone[None, :] - both, 1) >= TIED
    groups: list[set[int]] = []
    for one, other in np.argwhere(np.triu(tied, 1)).tolist():
        if names[other] in words.implied(key(names[one])) or names[one] in words.implied(key(names[other])):
            continue
        near = [group for group in groups if one in group or other in group]
        groups = [group for group in groups if group not in near] + [{one, other}.union(*near)]
    return [_fused(sorted(group), names, every, words, written) for group in sorted(groups, key=min)]


def _fused(
    group: list[int],
    names: Sequence[str],
    every: Mapping[int, list[str]],
    words: Book,
    written: Mapping[str, str],
) -> Fused:
    said = {one for index in group for one in words.implied(key(names[index]))}
    tags = [names[index] for index in group if key(names[index]) not in said]
    wanted = set(tags)
    count = sum(wanted.issubset(here) for here in every.values())
    shown = tuple(written[tag] for tag in tags)
    rest = len(shown) - MOST_NAMED
    listed = (
        ", ".join(shown[:MOST_NAMED]) + f" and {rest} more" if rest > 0 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    )
    text = (
        f"{listed} stand together on {plural(count, 'picture')} and hardly apart: the LoRA cannot tell which word means"
        " what, and a prompt with one brings the others. Add pictures with one of them only, or make it one word."
    )
    return Fused(shown, count / len(every), text)
