"""What the caption editor does at once: one text, or the same tags on a few pictures; each one step of undo.

The trigger comes first in every caption that is written here. Larger changes go through `caption_edits`, with a diff.
"""

from collections.abc import Callable, Iterable, Sequence

from lora_studio.core import captions
from lora_studio.core.project import Project
from lora_studio.steps import captioning

QUICK = 9
"""Keys that hold a tag: 1 to 9."""


def led(tags: Iterable[str], trigger: str) -> str:
    """The tags as a caption, the trigger in front; empty stays empty."""
    found = captions.unique(tag.strip() for tag in tags)
    return captions.join(captions.with_trigger_first(found, trigger) if found else found)


def write(
    project: Project, image_id: int, text: str, before: str | None = None, field: captioning.Field = "caption"
) -> str:
    """Replace one text of a picture; returns it as it is kept. Raises captioning.Conflict when it is not `before`."""
    if field == "caption":
        text = led(captions.split(text), project.plan.trigger)
    return captioning.set_text(project, image_id, text, before, field)


def add(project: Project, ids: Iterable[int], tags: Sequence[str]) -> list[int]:
    """Append the tags where they are missing; returns the ids of the captions that changed."""
    new = captions.split(",".join(tags))
    return _each(project, ids, f"Add {', '.join(new)}", lambda found: [*found, *new])


def remove(project: Project, ids: Iterable[int], tags: Sequence[str]) -> list[int]:
    """Take the tags out, never the trigger; returns the ids of the captions that changed."""
    gone = captions.split(",".join(tags))
    keys = {tag.casefold() for tag in gone}
    return _each(
        project, ids, f"Remove {', '.join(gone)}", lambda found: [tag for tag in found if tag.casefold() not in keys]
    )


def _each(project: Project, ids: Iterable[int], label: str, change: Callable[[list[str]], list[str]]) -> list[int]:
    wanted, trigger = set(ids), project.plan.trigger
    images = [image for image in project.images() if image.id in wanted]
    after = [led(change(captions.split(image.caption)), trigger) for image in images]
    return captioning.write(project, captioning.diff_of(label, images, after))


def keep_quick(project: Project, tags: Sequence[str]) -> list[str]:
    """Keep the tags of the keys 1 to 9 in the plan; an empty one leaves its key free. Returns them."""
    tidy = [" ".join(tag.replace(",", " ").split()) for tag in tags[:QUICK]]
    while tidy and not tidy[-1]:
        tidy.pop()
    project.save_plan(project.plan.with_changes({"quick_tags": tidy}))
    return tidy
