"""Curation: look at every picture once, keep the good ones, cut what is too much."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lora_studio.engine import buckets as engine_buckets
from lora_studio.steps import curation, training
from lora_studio.ui import pictures
from lora_studio.ui.components.part import part
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio

Ids = Annotated[list[int], Field(max_length=200_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Box = tuple[Share, Share, Share, Share]


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's script calls."""

    def audit(project: str) -> dict[str, Any]:
        found = studio.audit(studio.open(project))
        return {
            "flags": {
                image_id: [
                    {"name": flag.name, "text": flag.text, "other": flag.other, "bad": flag.name in curation.BAD_FLAGS}
                    for flag in flags
                ]
                for image_id, flags in found.flags.items()
            },
            "findings": found.findings,
        }

    def decide(project: str, ids: Ids, decision: Literal["keep", "reject", "new"]) -> dict[str, Any]:
        opened = studio.open(project)
        {"keep": curation.keep, "reject": curation.reject, "new": curation.reset}[decision](opened, ids)
        return pictures.changed(opened, ids)

    def auto(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        rejected = curation.auto(opened)
        return {"rejected": rejected, **pictures.changed(opened, [item["id"] for item in rejected])}

    def crop(project: str, id: int, box: Box | None) -> dict[str, Any]:
        opened = studio.open(project)
        curation.set_crop(opened, id, box)
        return pictures.changed(opened, [id])

    def bucket(project: str, id: int, box: Box | None) -> dict[str, int]:
        opened = studio.open(project)
        image = opened.image(id)
        left, top, right, bottom = box or (0, 0, 1, 1)
        data = training.current(opened).data
        width = max(1, round((right - left) * image.width))
        height = max(1, round((bottom - top) * image.height))
        fitted = engine_buckets.assign(width, height, data)
        return {"width": width, "height": height, "bucket_width": fitted[0], "bucket_height": fitted[1]}

    def buckets(project: str) -> list[dict[str, int]]:
        opened = studio.open(project)
        return curation.buckets(opened, training.current(opened))

    return {
        "curation.audit": audit,
        "curation.decide": decide,
        "curation.auto": auto,
        "curation.crop": crop,
        "curation.bucket": bucket,
        "curation.buckets": buckets,
    }


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab: the grid, and the inspector beside it."""
    part("curation", classes="ls-whole")
