"""Tagging: let the tagger describe the pictures, then put its words right."""

import json
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from lora_studio.core import paths
from lora_studio.core.jobs import Job
from lora_studio.core.project import Project
from lora_studio.steps import tagging
from lora_studio.ui import pictures
from lora_studio.ui.components.part import part
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import tagging_model

Ids = Annotated[list[int], Field(max_length=200_000)]
Tag = Annotated[str, Field(min_length=1, max_length=200)]
Tags = Annotated[list[Tag], Field(min_length=1, max_length=100)]


@cache
def vocabulary() -> tuple[str, ...]:
    """Tags that the starter's tagger knows, for completion."""
    path = paths.assets() / "starter" / "tagger" / "vocabulary.json"
    if not path.is_file():
        return ()
    return tuple(tag["name"] for tag in json.loads(path.read_text("utf-8"))["tags"])


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's script calls."""

    def info(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        plan, job = opened.plan, _last(studio, opened)
        return {
            "trigger": plan.trigger,
            "prune": plan.prune_tags,
            "counts": studio.remembered(opened, "counts", lambda: tagging.counts(opened)),
            "findings": studio.remembered(opened, "findings", lambda: tagging.findings(opened)),
            "job": _shown(studio, job) if job else None,
        }

    def words() -> tuple[str, ...]:
        return vocabulary()

    return {"tagging.words": words, "tagging.info": info} | _edits(studio) | tagging_model.functions(studio)


def _edits(studio: Studio) -> dict[str, Any]:
    """Changes of captions; each answers with the rows that it touched and how many captions changed."""

    def answer(opened: Project, ids: list[int], count: int) -> dict[str, Any]:
        return {"count": count, **pictures.changed(opened, ids)}

    def caption(project: str, id: int, caption: Annotated[str, Field(max_length=20_000)]) -> dict[str, Any]:
        opened = studio.open(project)
        tagging.set_caption(opened, id, caption)
        return answer(opened, [id], 1)

    def add(project: str, ids: Ids, tags: Tags) -> dict[str, Any]:
        opened = studio.open(project)
        return answer(opened, ids, tagging.add_tags(opened, ids, tags))

    def remove(project: str, ids: Ids, tags: Tags) -> dict[str, Any]:
        opened = studio.open(project)
        return answer(opened, ids, tagging.remove_tags(opened, ids, tags))

    def prune(project: str, tag: Tag) -> dict[str, Any]:
        opened = studio.open(project)
        return answer(opened, [image.id for image in studio.images(opened)], tagging.prune(opened, tag))

    def replace(project: str, ids: Ids, old: Tag, new: Tag) -> dict[str, Any]:
        opened = studio.open(project)
        return answer(opened, ids, tagging.replace_tag(opened, ids, old, new))

    def trigger_first(project: str, ids: Ids) -> dict[str, Any]:
        opened = studio.open(project)
        return answer(opened, ids, tagging.trigger_first(opened, ids))

    return {
        "tagging.caption": caption,
        "tagging.add": add,
        "tagging.remove": remove,
        "tagging.prune": prune,
        "tagging.replace": replace,
        "tagging.trigger_first": trigger_first,
    }


def _last(studio: Studio, project: Project) -> Job | None:
    jobs = [job for job in studio.jobs.all(project.slug) if job.id.startswith("tag-")]
    return jobs[0] if jobs else None


def _shown(studio: Studio, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "error": job.error,
        "remedy": job.remedy,
        "applied": (job.folder / "applied").exists(),
        **studio.progress(job),
    }


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab: tags, grid, inspector."""
    part("tagging", classes="ls-whole")
