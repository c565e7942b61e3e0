"""Curation: look at every picture once, keep the good ones, cut what is too much."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lora_studio.core.project import PROVENANCE
from lora_studio.engine import buckets as engine_buckets
from lora_studio.steps import curation, provenance, training
from lora_studio.ui import pictures
from lora_studio.ui.components.part import part
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio

Ids = Annotated[list[int], Field(max_length=200_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Box = tuple[Share, Share, Share, Share]
Decision = Literal["keep", "maybe", "reject", "new"]
VERBS = {"keep": "Keep", "maybe": "Set aside", "reject": "Reject", "new": "Reset"}


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's script calls."""

    def audit(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        found = studio.audit(opened)
        flags = {image_id: [_flag(flag) for flag in flags] for image_id, flags in found.flags.items()}
        bad = {
            image_id: "; ".join(flag["text"] for flag in flags if flag["bad"])
            for image_id, flags in flags.items()
            if any(flag["bad"] for flag in flags)
        }
        proposals = {
            image.id: {"decision": "reject" if image.id in bad else "keep", "reason": bad.get(image.id, "")}
            for image in studio.images(opened)
            if image.decision == "new"
        }
        return {"flags": flags, "findings": found.findings, "proposals": proposals, "look": look(project)}

    def look(project: str) -> dict[str, Any]:
        return {"missing": 0, "job": None}

    def decide(project: str, ids: Ids, decision: Decision) -> dict[str, Any]:
        opened = studio.open(project)
        with opened.edit(f"{VERBS[decision]} {len(ids)} picture{'s' if len(ids) != 1 else ''}") as edit:
            for image_id in ids:
                edit.set(image_id, decision=decision, reason="")
        return pictures.changed(opened, ids)

    def accept(project: str, ids: Ids | None = None) -> dict[str, Any]:
        opened = studio.open(project)
        offered = audit(project)["proposals"]
        chosen = [one for one in (offered if ids is None else ids) if one in offered]
        with opened.edit(f"Accept {len(chosen)} suggestion{'s' if len(chosen) != 1 else ''}") as edit:
            for image_id in chosen:
                edit.set(image_id, **offered[image_id])
        return pictures.changed(opened, chosen)

    def choose(project: str, best: int, others: Ids, reason: str = "") -> dict[str, Any]:
        opened = studio.open(project)
        with opened.edit(f"Keep one of {len(others) + 1}") as edit:
            edit.set(best, decision="keep", reason="")
            for image_id in others:
                edit.set(image_id, decision="reject", reason=reason or f"#{best} is kept in its place")
        return pictures.changed(opened, [best, *others])

    def find(project: str, text: str, sort: str = "", down: bool = False) -> dict[str, Any]:
        return {"ids": [image.id for image in studio.images(studio.open(project)) if text in image.name]}

    def fields() -> list[dict[str, str]]:
        return []

    def measures(project: str, ids: Annotated[list[int], Field(max_length=2)]) -> dict[str, Any]:
        opened = studio.open(project)
        sharp = [opened.image(image_id).sharpness for image_id in ids]
        rows = [{"name": "Sharpness", "texts": [f"{value:.3f}" for value in sharp], "values": sharp}]
        return {"ids": ids, "rows": rows}

    def origin(project: str, ids: Ids) -> dict[str, dict[str, Any]]:
        return provenance.common(studio.open(project), ids)

    def set_origin(project: str, ids: Ids, values: dict[Literal[PROVENANCE], str]) -> dict[str, Any]:
        opened = studio.open(project)
        provenance.save(opened, ids, values)
        return pictures.changed(opened, ids)

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

    return {
        "curation.audit": audit,
        "curation.look": look,
        "curation.decide": decide,
        "curation.accept": accept,
        "curation.choose": choose,
        "curation.find": find,
        "curation.fields": fields,
        "curation.measures": measures,
        "curation.provenance": origin,
        "curation.set_provenance": set_origin,
        "curation.crop": crop,
        "curation.bucket": bucket,
    }


def _flag(flag: Any) -> dict[str, Any]:
    return {**vars(flag), "bad": flag.name in curation.BAD_FLAGS}


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab: the grid, and the inspector beside it."""
    part("curation", classes="ls-whole")
