"""Edits over many captions: what one would do is seen as a diff, and done as one transaction and one step of undo.

Order is kept, the trigger stays in front where a caption has it, and sentences are never split at commas.
"""

import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Literal, Self

import regex
from pydantic import Field, model_validator

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.core.settings import Settings
from lora_studio.steps import captioning
from lora_studio.steps.captioning import Diff

Do = Literal[
    "add", "remove", "rename", "merge", "front", "place", "regex", "text", "sort", "dedupe", "underscores", "aliases",
    "implications", "redundant", "trigger", "prune", "clear", "mojibake",
]  # fmt: skip
ABOUT: dict[Do, str] = {
    "add": "Append `tags` where they are missing.",
    "remove": "Take `tags` out.",
    "rename": "Put `new` (one tag or several with commas) where a tag of `tags` stands.",
    "merge": "One tag, `new`, in place of all of `tags`, where the first of them stands.",
    "front": "Move `tags` to the front, behind the trigger, where a caption has them.",
    "place": "Put `tags` at the place `at`, moved there where a caption has them already.",
    "regex": "Replace what `pattern` finds in each tag (or in the sentences) by `by`.",
    "text": "Replace the letters `pattern` by `by`, wherever they stand.",
    "sort": "Tags by alphabet.",
    "dedupe": "Each tag once, whatever the case; blanks and commas tidied.",
    "underscores": "Blanks for underscores, except in faces such as ^_^.",
    "aliases": "Each tag by its usual name.",
    "implications": "Append what the tags imply: `red hat` a `hat`.",
    "redundant": "Take out what another tag of the caption implies.",
    "trigger": "Put the trigger first, where it is missing too.",
    "prune": "Take out `tags` (or those the plan prunes), so that the trigger stands for them.",
    "clear": "Empty the captions.",
    "mojibake": "Repair letters read in the wrong encoding: cafÃ© to café.",
}
NEEDS_TAGS = ("add", "remove", "rename", "merge", "front", "place")
ON_PROSE = ("regex", "text", "trigger", "clear", "mojibake")
SECONDS = 2.0
"""All of a regular expression's work; a pattern that needs longer would hang."""
Tags = list[str]


class CaptionEdit(Settings):
    """One edit of many captions."""

    do: Do
    """What is done."""
    tags: tuple[str, ...] = ()
    """The tags that it is done with, whatever their case."""
    new: str = Field("", max_length=2000)
    """What they become; several tags with commas."""
    at: int = Field(1, ge=-1000, le=1000)
    """Place in the caption: 1 is the first behind the trigger, -1 the last."""
    pattern: str = Field("", max_length=1000)
    """What is looked for: letters, or a regular expression."""
    by: str = Field("", max_length=2000)
    """What stands there then; in a regular expression `\\1` is its first group."""
    field: captioning.Field = "caption"
    """Tags, or the sentences beside them."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.do in NEEDS_TAGS and not self.named:
            raise ValueError(f"{self.do} needs tags")
        if self.do == "rename" and not captions.split(self.new):
            raise ValueError("rename needs a new name; to take a tag out, remove it")
        if self.do == "merge" and len(captions.split(self.new)) != 1:
            raise ValueError("merge makes one tag; name it in new, without commas")
        if self.do in ("regex", "text") and not self.pattern:
            raise ValueError(f"{self.do} needs a pattern")
        if self.do == "place" and not self.at:
            raise ValueError("places count from 1, and from -1 at the end")
        if self.field == "prose" and self.do not in ON_PROSE:
            raise ValueError(f"{self.do} works on tags; on sentences work {', '.join(ON_PROSE)}")
        return self

    @property
    def named(self) -> list[str]:
        """`tags`, those with commas taken apart."""
        return captions.split(",".join(self.tags))


def preview(project: Project, ids: Iterable[int] | Literal["used"] | None, edit: CaptionEdit) -> Diff:
    """What the edit would do to these pictures: `None` is all, `"used"` those that are trained on.

    Raises UserError for what cannot be done: no trigger, a regular expression that is none or needs too long.
    """
    plan = project.plan
    before = project.texts(edit.field, used=ids == "used")
    if ids is not None and ids != "used":
        wanted = set(ids)
        before = {image_id: text for image_id, text in before.items() if image_id in wanted}
    change = change_of(edit, plan)
    after = {image_id: change(text) for image_id, text in before.items()}
    grown = [len(text) for image_id, text in after.items() if len(text) > len(before[image_id])]
    if (longest := max(grown, default=0)) > captioning.MAX_LENGTH:
        raise UserError(
            f"A caption would be {longest} letters long, nothing was changed.",
            f"At most {captioning.MAX_LENGTH} are kept: add less.",
        )
    return captioning.diff_of_texts(label(edit, plan), before, after, edit.field)


def apply(
    project: Project, ids: Iterable[int] | Literal["used"] | None, edit: CaptionEdit, digest: str | None = None
) -> list[int]:
    """Do the edit; returns the ids of the changed pictures. `digest` is that of the preview that was confirmed.

    Raises UserError, and nothing has happened, where `preview` would or when the captions have changed since.
    """
    return captioning.write(project, preview(project, ids, edit), digest)


def change_of(edit: CaptionEdit, plan: Plan) -> Callable[[str], str]:
    """What the edit makes of one text. Raises UserError for what cannot be done, at once or when it is called."""
    return _text_change(edit, plan) if edit.field == "prose" else _caption_change(edit, plan)


def label(edit: CaptionEdit, plan: Plan) -> str:
    """The edit's name in the list of what can be undone."""
    tags = ", ".join(edit.named or plan.prune_tags)
    names: dict[Do, str] = {
        "add": f"Add {tags}",
        "remove": f"Remove {tags}",
        "rename": f"Replace {tags} by {edit.new.strip()}",
        "merge": f"Merge {tags} into {edit.new.strip()}",
        "front": f"Move {tags} to the front",
        "place": f"Put {tags} at place {edit.at}",
        "regex": f"Replace /{edit.pattern}/ by {edit.by or 'nothing'}",
        "text": f"Replace {edit.pattern} by {edit.by or 'nothing'}",
        "sort": "Sort tags",
        "dedupe": "Remove repeated tags",
        "underscores": "Blanks for underscores",
        "aliases": "Usual names of tags",
        "implications": "Add implied tags",
        "redundant": "Remove implied tags",
        "trigger": f"Put {plan.trigger} first",
        "prune": f"Prune {tags}",
        "clear": "Empty captions" if edit.field == "caption" else "Empty descriptions",
        "mojibake": "Repair letters",
    }
    text = names[edit.do]
    return text if len(text) <= 80 else f"{text[:79]}…"


def _caption_change(edit: CaptionEdit, plan: Plan) -> Callable[[str], str]:
    """What becomes of a caption. One that the edit does not concern stays byte for byte as it is."""
    on_tags = _tags_change(edit, plan)
    on_text = _text_change(edit, plan) if edit.do in ("text", "mojibake") else None

    def change(caption: str) -> str:
        before = captions.split(caption)
        after = captions.split(on_text(caption)) if on_text else on_tags(before)
        if edit.do == "dedupe":
            return captions.join(before)
        if after != before and edit.do not in ("remove", "prune"):
            after = _led(after, plan.trigger)
        return caption if after == before else ", ".join(after)

    return change


def _led(tags: Tags, trigger: str) -> Tags:
    """The trigger in front, where the caption has it."""
    if not trigger or tags[:1] == [trigger]:
        return tags
    return captions.with_trigger_first(tags, trigger) if _has(tags, trigger) else tags


def _has(tags: Tags, tag: str) -> bool:
    key = tag.casefold()
    return any(one.casefold() == key for one in tags)


def _tags_change(edit: CaptionEdit, plan: Plan) -> Callable[[Tags], Tags]:
    named = edit.named or (list(plan.prune_tags) if edit.do == "prune" else [])
    keys, new = {tag.casefold() for tag in named}, captions.split(edit.new)
    if edit.do == "prune" and not named:
        raise UserError("No tag is named that should be pruned.", "Name one, or list them in Conception.")
    if edit.do == "trigger" and not plan.trigger:
        raise UserError("This project has no trigger word.", "Name one in Conception.")

    def without(tags: Tags) -> Tags:
        return [tag for tag in tags if tag.casefold() not in keys]

    def renamed(tags: Tags) -> Tags:
        if keys.isdisjoint(map(str.casefold, tags)):
            return tags
        return captions.unique(one for tag in tags for one in (new if tag.casefold() in keys else (tag,)))

    def front(tags: Tags) -> Tags:
        there = {tag.casefold(): tag for tag in tags}
        return [there[tag.casefold()] for tag in named if tag.casefold() in there] + without(tags)

    def place(tags: Tags) -> Tags:
        rest = [tag for tag in without(tags) if tag.casefold() != plan.trigger.casefold()]
        index = edit.at - 1 if edit.at > 0 else max(len(rest) + edit.at + 1, 0)
        lead = [plan.trigger] if _has(tags, plan.trigger) else []
        return captions.unique([*lead, *rest[:index], *named, *rest[index:]])

    changes: dict[Do, Callable[[Tags], Tags]] = {
        "add": lambda tags: captions.unique([*tags, *named]),
        "remove": without,
        "prune": without,
        "rename": renamed,
        "merge": renamed,
        "front": front,
        "place": place,
        "sort": lambda tags: sorted(tags, key=lambda tag: (tag.casefold(), tag)),
        "underscores": lambda tags: captions.unique(map(captions.spaced, tags)),
        "trigger": lambda tags: captions.with_trigger_first(tags, plan.trigger),
        "clear": lambda tags: [],
    }
    if edit.do == "regex":
        replace = cache(_pattern_change(edit))
        return lambda tags: captions.unique(one for tag in tags for one in captions.split(replace(tag)))
    if edit.do in ("aliases", "implications", "redundant"):
        return _vocabulary_change(edit.do)
    return changes.get(edit.do, lambda tags: tags)


def _vocabulary_change(do: Do) -> Callable[[Tags], Tags]:
    from lora_studio.steps import vocabulary

    if do == "aliases":
        usual = vocabulary.aliases()
        return lambda tags: captions.unique(usual.get(tag.casefold(), tag) for tag in tags)
    implied = vocabulary.implications()

    @cache
    def all_of(tag: str) -> tuple[str, ...]:
        """What the tag implies, and what that implies."""
        found: dict[str, None] = {}
        left = list(implied.get(tag, ()))
        while left:
            one = left.pop(0)
            if one not in found and one != tag:
                found[one] = None
                left += implied.get(one, ())
        return tuple(found)

    if do == "implications":
        return lambda tags: captions.unique([*tags, *(one for tag in tags for one in all_of(tag.casefold()))])

    def without(tags: Tags) -> Tags:
        gone = {one.casefold() for tag in tags for one in all_of(tag.casefold())}
        return [tag for tag in tags if tag.casefold() not in gone]

    return without


def _text_change(edit: CaptionEdit, plan: Plan) -> Callable[[str], str]:
    """What becomes of a whole text: nothing but the places that the edit names."""
    if edit.do == "text":
        return lambda text: text.replace(edit.pattern, edit.by)
    if edit.do == "mojibake":
        return captions.repaired
    if edit.do == "clear":
        return lambda text: ""
    if edit.do == "trigger":
        if not plan.trigger:
            raise UserError("This project has no trigger word.", "Name one in Conception.")
        return lambda text: text and captions.prose_with_trigger(text, plan.trigger)
    return _pattern_change(edit)


def _pattern_change(edit: CaptionEdit) -> Callable[[str], str]:
    try:
        pattern = regex.compile(edit.pattern)
    except regex.error as error:
        raise UserError(
            f"/{edit.pattern[:60]}/ is no regular expression: {error}.", "To replace these very letters, use text."
        ) from error
    end = time.monotonic() + SECONDS

    def change(text: str) -> str:
        try:
            return pattern.sub(edit.by, text, timeout=max(end - time.monotonic(), 1e-3))
        except TimeoutError as error:
            raise UserError(
                f"/{edit.pattern[:60]}/ takes longer than {SECONDS:g} seconds, nothing was changed.",
                "Write it without repeats inside repeats, such as (a+)+.",
            ) from error
        except (regex.error, IndexError) as error:
            raise UserError(f"{edit.by[:60]} cannot be put in: {error}.", "Groups are written \\1, \\2.") from error

    return change
