"""Tagging's views of all captions together: the table of tags, what is wrong, what will be absorbed, charts.

A change of captions is asked for as `steps.caption_edits.CaptionEdit`, shown as a diff and applied by its digest.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from lora_studio.core.project import Project
from lora_studio.steps import caption_edits, captioning, checking
from lora_studio.steps.caption_edits import CaptionEdit
from lora_studio.steps.captioning import Diff
from lora_studio.ui.studio import Studio

Ids = Annotated[list[int], Field(max_length=200_000)] | Literal["used"] | None
"""Some pictures, those that are trained on, or (None) all of them."""
Tag = Annotated[str, Field(min_length=1, max_length=20_000)]
Tags = Annotated[list[Tag], Field(min_length=1, max_length=20_000)]
Kind = Annotated[str, Field(max_length=40)]
Digest = Annotated[str, Field(max_length=64)]


def functions(studio: Studio) -> dict[str, Any]:
    """What the views call."""
    shown: dict[str, Diff] = {}  # the last preview of each project: what is confirmed is written as it was seen

    def table(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        return studio.remembered(opened, "words.table", lambda: _table(opened))

    def preview(project: str, ids: Ids, edit: CaptionEdit) -> dict[str, Any]:
        shown[project] = caption_edits.preview(studio.open(project), ids, edit)
        return shown[project].page()

    def apply(project: str, ids: Ids, edit: CaptionEdit, digest: Digest | None = None) -> dict[str, Any]:
        opened = studio.open(project)
        diff = shown.pop(project, None)
        if diff is not None and diff.digest == digest:
            return _answer(opened, captioning.write(opened, diff))  # says so when the captions are others by now
        return _answer(opened, caption_edits.apply(opened, ids, edit, digest))

    def lint(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        return {"problems": studio.remembered(opened, "words.lint", lambda: checking.lint(opened))}

    def fix(project: str, kind: Kind) -> dict[str, Any]:
        return checking.fix(studio.open(project), kind).page()

    def mend(project: str, kind: Kind, digest: Digest | None = None) -> dict[str, Any]:
        opened = studio.open(project)
        return _answer(opened, captioning.write(opened, checking.fix(opened, kind), digest))

    def absorbed(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        found = studio.remembered(opened, "words.absorbed", lambda: checking.absorbed(opened))
        plan = opened.plan
        return {**vars(found), "kind": plan.kind, "trigger": plan.trigger, "pruned": plan.prune_tags}

    def prune(project: str, tags: Tags, digest: Digest | None = None) -> dict[str, Any]:
        opened = studio.open(project)
        return _answer(opened, checking.prune(opened, tags, digest))

    def charts(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        return studio.remembered(opened, "words.charts", lambda: checking.charts(opened))

    return {
        "words.table": table,
        "words.preview": preview,
        "words.apply": apply,
        "words.lint": lint,
        "words.fix": fix,
        "words.mend": mend,
        "words.absorbed": absorbed,
        "words.prune": prune,
        "words.charts": charts,
    }


def _table(project: Project) -> dict[str, Any]:
    """Rows as lists, which 10,000 tags need: tag, count, share, category, share of its pictures with the trigger."""
    rows = [[row.tag, row.count, row.share, row.category, row.with_trigger] for row in checking.table(project)]
    return {"rows": rows, "trigger": project.plan.trigger}


def _answer(project: Project, ids: list[int]) -> dict[str, Any]:
    """How many captions changed, and their texts: whole rows of 10,000 pictures would take most of the time."""
    revision, wanted = project.revision, set(ids)
    values = [
        (image_id, field, text)
        for field in captioning.FIELDS
        for image_id, text in project.texts(field).items()
        if image_id in wanted
    ]
    return {"count": len(wanted), "revision": revision, "values": values}
