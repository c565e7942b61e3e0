"""Tagging: the auto-tagger's answers into captions, and edits over many captions, each one undoable."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Job, Jobs
from lora_studio.core.project import Image, Project
from lora_studio.judge import captions as judge_captions
from lora_studio.judge.dataset import Finding
from lora_studio.tagger.config import TagConfig, TagJob

Mode = Literal["empty", "append", "replace"]
MODES: tuple[Mode, ...] = ("empty", "append", "replace")
TARGET = "lora_studio.tagger.tag:tag"
SKIPPED: dict[str, tuple[str, ...]] = {"style": ("style",)}
"""Kinds of tags left out by the kind of LoRA: the trigger word of a style stands for the style."""


def recommended(project: Project) -> TagConfig:
    """The tagger's settings for the project's kind."""
    return TagConfig(model=project.plan.tagger, skip_categories=SKIPPED.get(project.plan.kind, ()))


def tag_job(project: Project, config: TagConfig) -> TagJob:
    """The job over all used pictures. Raises UserError when there are none."""
    images = project.used_images()
    if not images:
        raise UserError("There are no pictures to tag.", "Gather some first, or take back a rejection.")
    return TagJob(
        config=config, images=[{"id": image.id, "file": str(project.original_path(image))} for image in images]
    )


def start(project: Project, jobs: Jobs, config: TagConfig) -> Job:
    """Run the auto-tagger in the background; `apply` brings its answers into the captions."""
    config_ = tag_job(project, config).to_dict()
    return jobs.start(project.new_folder("jobs", "tag"), TARGET, config_, "Auto-tagging", project.slug)


def apply(project: Project, folder: Path, mode: Mode = "append") -> dict[str, Any]:
    """Merge a tag job's results into the captions: one transaction, one undo entry.

    The plan's trigger goes first and its pruned tags are left out. `empty` fills only empty captions, `append` adds
    what is missing, `replace` starts afresh. Returns `{"written", "skipped", "failed": [{"file", "reason"}]}`.
    Raises UserError when there are no results.
    """
    if mode not in MODES:
        raise UserError(f"{mode} is no way to merge.", f"Known: {', '.join(MODES)}.")
    path = folder / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    if not lines:
        raise UserError("The tagger has written no results.", "Look at its log and start it again.")
    plan, images = project.plan, {image.id: image for image in project.images()}
    pruned = {tag.casefold() for tag in plan.prune_tags}
    written, skipped, failed = 0, 0, []
    with project.edit("Auto-tagging") as edit:
        for line in lines:
            image = images.get(line["id"])
            if image is None:
                continue
            if line.get("error"):
                failed.append({"file": image.name, "reason": line["error"]})
            elif mode == "empty" and image.caption:
                skipped += 1
            else:
                before = [] if mode == "replace" else captions.split(image.caption)
                tags = [*before, *(tag[0] for tag in line["tags"])]
                kept = [tag for tag in tags if tag.casefold() not in pruned]
                edit.set(image.id, caption=captions.join(captions.with_trigger_first(kept, plan.trigger)))
                written += 1
    return {"written": written, "skipped": skipped, "failed": failed}


def set_caption(project: Project, image_id: int, caption: str) -> str:
    """Replace one caption; returns it tidied."""
    tidy = captions.join(captions.split(caption[:20_000]))
    with project.edit("Edit a caption") as edit:
        edit.set(image_id, caption=tidy)
    return tidy


def add_tags(project: Project, ids: Iterable[int], tags: Iterable[str]) -> int:
    """Append tags where they are missing; returns how many captions changed."""
    added = captions.unique(tag.strip() for tag in tags)
    return _each(project, ids, f"Add {', '.join(added)}", lambda caption: captions.add(caption, added))


def remove_tags(project: Project, ids: Iterable[int], tags: Iterable[str]) -> int:
    """Take tags out; returns how many captions changed."""
    gone = captions.unique(tag.strip() for tag in tags)
    return _each(project, ids, f"Remove {', '.join(gone)}", lambda caption: captions.remove(caption, gone))


def prune(project: Project, tag: str) -> int:
    """Take a tag out of every caption, those of rejected pictures too, so that the trigger takes over what it says;
    returns how many captions changed."""
    tag = tag.strip()
    everywhere = [image.id for image in project.images()]
    return _each(project, everywhere, f"Prune {tag}", lambda caption: captions.remove(caption, [tag]))


def replace_tag(project: Project, ids: Iterable[int], old: str, new: str) -> int:
    """Put `new` (one tag or several with commas) where `old` stands; returns how many captions changed."""
    fresh = captions.split(new)
    return _each(project, ids, f"Replace {old} by {new}", lambda caption: captions.replace(caption, old.strip(), fresh))


def trigger_first(project: Project, ids: Iterable[int]) -> int:
    """Put the plan's trigger in front of captions; returns how many changed."""
    trigger = project.plan.trigger
    if not trigger:
        raise UserError("This project has no trigger word.", "Name one in Conception.")

    def change(caption: str) -> str:
        return captions.join(captions.with_trigger_first(captions.split(caption), trigger))

    return _each(project, ids, f"Put {trigger} first", change)


def _each(project: Project, ids: Iterable[int], label: str, change: Callable[[str], str]) -> int:
    wanted = set(ids)
    with project.edit(label[:80]) as edit:
        for image in project.images():
            if image.id in wanted and change(image.caption) != image.caption:
                edit.set(image.id, caption=change(image.caption))
        return len(edit.changes)


def preview_replace(project: Project, ids: Iterable[int], old: str) -> int:
    """How many captions of `ids` hold the tag `old`."""
    wanted, tag = set(ids), old.strip().casefold()
    return sum(
        tag in (part.casefold() for part in captions.split(image.caption))
        for image in project.images()
        if image.id in wanted
    )


def counts(project: Project) -> list[tuple[str, int]]:
    """Tags of the used pictures with how many pictures have them, the most frequent first."""
    found: Counter[str] = Counter()
    for image in project.used_images():
        found.update(captions.split(image.caption))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def findings(project: Project) -> list[Finding]:
    """What the judge says of the captions."""
    plan = project.plan
    return judge_captions.findings(
        {image.id: image.caption for image in project.used_images()}, plan.trigger, plan.kind, list(plan.varies)
    )


def captioned(images: Iterable[Image]) -> int:
    """How many of the pictures have a caption."""
    return sum(bool(image.caption) for image in images)
