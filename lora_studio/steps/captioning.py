"""Changes of captions: seen as a diff before they happen, written as one transaction and one step of undo."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.project import Image, Project

Field = Literal["caption", "prose"]
FIELDS: tuple[Field, ...] = ("caption", "prose")
MAX_LENGTH = 20_000
"""Letters that one caption keeps."""


@dataclass(frozen=True)
class Change:
    """What becomes of one text of one picture."""

    id: int
    field: Field
    before: str
    after: str


@dataclass(frozen=True)
class Diff:
    """What an edit will do, before it is done."""

    label: str
    """Its name in the list of what can be undone."""
    changes: tuple[Change, ...]

    @property
    def digest(self) -> str:
        """Of all texts before and after: whoever has seen this diff applies exactly it, or is told."""
        return digest_of(self.changes)

    def page(self, most: int = 200) -> dict[str, Any]:
        """`{"label", "count" of pictures, "changes": the first ones, "digest"}`."""
        shown = [
            {"id": one.id, "field": one.field, "before": one.before, "after": one.after} for one in self.changes[:most]
        ]
        count = len({one.id for one in self.changes})
        return {"label": self.label, "count": count, "changes": shown, "digest": self.digest}


def digest_of(changes: Iterable[Change]) -> str:
    """The same for the same changes."""
    rows = [(one.id, one.field, one.before, one.after) for one in changes]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


class Conflict(UserError):
    """Somebody else changed the text meanwhile; `now` is what stands there."""

    def __init__(self, name: str, now: str) -> None:
        super().__init__(
            f"The caption of {name} was changed elsewhere meanwhile.", "Yours is kept in the field: compare and choose."
        )
        self.now = now


def write(project: Project, diff: Diff, digest: str | None = None) -> list[int]:
    """Do what the diff says, in one transaction; returns the ids of the changed pictures.

    `digest` is that of the diff that was shown. Raises UserError and changes nothing when it is another one, or when
    one of the texts is not what it was.
    """
    if digest is not None and digest != diff.digest:
        raise changed_since()
    with project.edit(diff.label[:80]) as edit:
        for field in FIELDS:
            now, after = edit.texts(field), {}
            for one in diff.changes:
                if one.field == field:
                    if now.get(one.id) != one.before:
                        raise changed_since()
                    after[one.id] = one.after
            edit.set_all(field, after)
    return sorted({one.id for one in diff.changes})


def changed_since() -> UserError:
    """The captions are no longer those that were shown."""
    return UserError(
        "The captions have changed since the preview, nothing was written.", "Look at the new preview and confirm."
    )


def set_text(project: Project, image_id: int, text: str, before: str | None = None, field: Field = "caption") -> str:
    """Replace one text of a picture; returns it tidied: tags without repeats, sentences without blanks at their ends.

    `before` is what the writer saw. Raises Conflict when that is not what stands there any more, and UserError for a
    text that is too long.
    """
    name = project.image(image_id).name
    if len(text) > MAX_LENGTH:
        raise UserError(f"This caption is {len(text)} letters long.", f"At most {MAX_LENGTH} are kept: shorten it.")
    text = text.replace("\0", "").encode("utf-8", "replace").decode()  # halves of signs cannot be stored
    tidy = captions.join(captions.split(text)) if field == "caption" else text.strip()
    with project.edit("Edit a caption") as edit:
        edit.set(image_id, **{field: tidy})
        now = edit.changes[0][2] if edit.changes else tidy  # what stood there when nobody else could write any more
        if before is not None and now not in (before, tidy):
            raise Conflict(name, now)
    return tidy


def diff_of(label: str, images: Sequence[Image], after: Iterable[str], field: Field = "caption") -> Diff:
    """The diff that gives each picture the text at its place in `after`."""
    before = {image.id: getattr(image, field) for image in images}
    return diff_of_texts(label, before, dict(zip(before, after, strict=True)), field)


def diff_of_texts(label: str, before: Mapping[int, str], after: Mapping[int, str], field: Field = "caption") -> Diff:
    """The diff from one text of each picture by id to another; pictures that `after` lacks stay as they are."""
    changes = [Change(one, field, before[one], text) for one, text in after.items()]
    return Diff(label, tuple(one for one in changes if one.before != one.after))
