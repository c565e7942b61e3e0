"""The pictures of a project as the page's grids hold them: rows of plain values; after an edit only what changed."""

from collections.abc import Iterable
from typing import Any

from lora_studio.core.images import WHITE
from lora_studio.core.project import Image, Project
from lora_studio.ui.studio import Studio

COLUMNS = (
    "id", "v", "name", "width", "height", "size", "decision", "reason", "caption", "prose", "crop", "more_crops",
    "mask", "repeats", "source",
)  # fmt: skip


AS_STORED = ("decision", "reason", "caption", "prose", "repeats", "source")
"""Columns whose values the page holds as the project stores them."""


def version(image: Image, background: str) -> str:
    """Changes with what is seen of the picture, and so makes its address cacheable."""
    return image.sha256[:12] + ("" if background == WHITE else background[1:])


def row(image: Image, background: str) -> list[Any]:
    """One picture in the order of COLUMNS; `v` is its version."""
    return [
        image.id,
        version(image, background),
        image.name,
        image.width,
        image.height,
        image.size,
        image.decision,
        image.reason,
        image.caption,
        image.prose,
        image.crop,
        image.more_crops,
        image.mask[:12],
        image.repeats,
        image.source,
    ]


def changed(project: Project, ids: Iterable[int]) -> dict[str, Any]:
    """What an edit answers: the rows of `ids` as they are now, and the revision that they belong to."""
    wanted, background = set(ids), project.plan.background
    if len(wanted) <= 50:
        found = [project.image(image_id) for image_id in sorted(wanted)]
    else:
        found = [image for image in project.images() if image.id in wanted]
    return {"revision": project.revision, "rows": [row(image, background) for image in found]}


def functions(studio: Studio) -> dict[str, Any]:
    """What all grids call."""

    def pictures(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        revision, background = opened.revision, opened.plan.background
        rows = [row(image, background) for image in studio.images(opened)]
        return {"revision": revision, "columns": COLUMNS, "rows": rows}

    return {"pictures": pictures}
