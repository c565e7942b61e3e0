"""Tagging: the caption editor. The tagger, the views of all captions and the files have modules of their own."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from lora_studio.core.project import Captions, Project
from lora_studio.engine.tokens import Counter
from lora_studio.engine.wording import Words
from lora_studio.steps import captioning, editing, filters, looking, tagging, tokens, vocabulary
from lora_studio.steps.rows import Row, rows
from lora_studio.ui import pictures
from lora_studio.ui.components.part import part
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import curation, tagging_model, tagging_words
from lora_studio.ui.tabs.tagging_seen import ENCODERS

Ids = Annotated[list[int], Field(max_length=200_000)]
Tag = Annotated[str, Field(min_length=1, max_length=2000)]
Tags = Annotated[list[Tag], Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(max_length=captioning.MAX_LENGTH)]
QuickTags = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=editing.QUICK)]
OFFERED_FIRST = (
    "tag",
    "tags",
    "count",
    "tokens",
    "untagged",
    "captioned",
    "caption",
    "prose",
    "has",
    "flagged",
    "name",
)
"""What an empty filter field suggests, as far as the filter knows it."""


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's scripts call."""
    return _read(studio) | _edits(studio) | tagging_model.functions(studio) | tagging_words.functions(studio)


def _read(studio: Studio) -> dict[str, Any]:
    def info(project: str) -> dict[str, Any]:
        plan = studio.open(project).plan
        return {"trigger": plan.trigger, "captions": plan.captions, "prune": plan.prune_tags, "quick": plan.quick_tags}

    def words(project: str) -> list[tuple[str, str, str]]:
        return [(name, category, alias) for name, category, _, alias in vocabulary.words(studio.open(project))]

    def suggestions(project: str, id: int) -> list[tuple[str, float, str]]:
        return tagging.suggestions(studio.open(project), id)

    def find(project: str, text: str, sort: str = "", down: bool = False) -> dict[str, Any]:
        opened = studio.open(project)
        every = [row for row in _rows(studio, opened, text) if row.image.used]
        ids = filters.select(every, filters.parse(text, every))
        return {"ids": filters.order(opened, ids, sort, down, every) if sort else ids}

    def token_counts(project: str, caption: Text, prose: Text) -> dict[str, Any]:
        opened = studio.open(project)
        counter, data = _counter(studio, opened), studio.config(opened).data
        if counter is None:
            return {"text": "", "encoders": []}
        words = Words(caption, prose, opened.plan.trigger)
        return _lengths(counter, words.whole(data).text, data.max_tokens)

    return {
        "tagging.info": info,
        "tagging.words": words,
        "tagging.suggestions": suggestions,
        "tagging.find": find,
        "tagging.fields": fields,
        "tagging.tokens": token_counts,
    }


def _edits(studio: Studio) -> dict[str, Any]:
    """Changes of captions; each answers with the rows that it touched and how many captions changed."""

    def answer(opened: Project, ids: Sequence[int], before: int) -> dict[str, Any]:
        if len(ids) <= 50:
            studio.patch(opened, [opened.image(image_id) for image_id in ids], before)
        return {"count": len(ids), **pictures.changed(opened, ids)}

    def caption(
        project: str, id: int, text: Text, before: Text | None = None, field: captioning.Field = "caption"
    ) -> dict[str, Any]:
        opened = studio.open(project)
        revision = opened.revision
        try:
            kept = editing.write(opened, id, text, before, field)
        except captioning.Conflict as conflict:
            return {"conflict": conflict.now}
        return {"text": kept, **answer(opened, [id], revision)}

    def add(project: str, ids: Ids, tags: Tags) -> dict[str, Any]:
        opened = studio.open(project)
        revision = opened.revision
        return answer(opened, editing.add(opened, ids, tags), revision)

    def remove(project: str, ids: Ids, tags: Tags) -> dict[str, Any]:
        opened = studio.open(project)
        revision = opened.revision
        return answer(opened, editing.remove(opened, ids, tags), revision)

    def quick(project: str, tags: QuickTags) -> list[str]:
        return editing.keep_quick(studio.open(project), tags)

    def mode(project: str, captions: Captions) -> None:
        opened = studio.open(project)
        opened.save_plan(opened.plan.with_changes({"captions": captions}))

    return {
        "tagging.caption": caption,
        "tagging.add": add,
        "tagging.remove": remove,
        "tagging.quick": quick,
        "tagging.captions": mode,
    }


def fields() -> list[dict[str, str]]:
    """The words of the filter language, those about captions first."""
    found = {one["name"]: one for one in curation.fields()}
    first = [name for name in OFFERED_FIRST if name in found]
    return [found.pop(name) for name in first] + list(found.values())


def _rows(studio: Studio, project: Project, text: str) -> list[Row]:
    """All pictures as the filter asks for them; what the judge found only where the filter asks for it."""
    if filters.asks_for_flags(text):
        return studio.rows(project)
    images = studio.images(project)
    return studio.remembered(
        project, "tag rows", lambda: rows(project, {}, images, looking.facts(project, images, studio.seen(project)))
    )


def _counter(studio: Studio, project: Project) -> Counter | None:
    """The tokenizers of the base, opened once for each state of the plan and of the training's settings."""
    settings = project.folder / "train.json"
    stamp = (
        (project.folder / "project.toml").stat().st_mtime_ns,
        settings.stat().st_mtime_ns if settings.exists() else 0,
    )
    return studio.remembered(project, "tokens", lambda: tokens.counter(project), stamp) or tokens.counter(project)


def _lengths(counter: Counter, text: str, limit: int) -> dict[str, Any]:
    """Tokens of a text for each encoder, and how much of it each reads, in the units of JavaScript's strings."""
    found = []
    for name, cut in counter.cut(text, limit).items():
        kept = len(text[: cut.kept_chars].encode("utf-16-le", "surrogatepass")) // 2
        found.append({"name": ENCODERS.get(name, name), "count": cut.count, "limit": cut.limit, "kept": kept})
    return {"text": text, "encoders": found}


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab: tags, grid, inspector."""
    part("tagging", classes="ls-whole")
