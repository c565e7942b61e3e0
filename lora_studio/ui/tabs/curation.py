"""Curation: look at every picture once, keep the good ones, cut what is too much."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lora_studio.core.jobs import ENDED
from lora_studio.core.project import PROVENANCE
from lora_studio.steps import curation, filters, looking, provenance
from lora_studio.steps.rows import NUMBERS, rows
from lora_studio.ui import pictures
from lora_studio.ui.components.part import part
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import curation_set, curation_shape

Ids = Annotated[list[int], Field(max_length=200_000)]
Decision = Literal["keep", "maybe", "reject", "new"]
MEASURED = (
    ("Sharpness", "sharpness", "{:.3f}", 1),
    ("Faces", "faces", "{:.0f}", 0),
    ("Lettering", "lettering", "{:.1%} of it", -1),
    ("Aesthetic score", "aesthetic", "{:.1f} of 10", 1),
    ("Shape", "aspect", "{:.2f} : 1", 0),
)
"""What is told of two pictures that are compared: title, its word in the filter, form, 1 where more is better."""
OFFERED_FIRST = ("flagged", "new", "blur", "width", "faces", "tag", "name", "cropped", "licence")
"""What an empty filter field suggests."""


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's script calls."""

    def audit(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        found = studio.audit(opened)
        flags = {image_id: [_flag(flag) for flag in flags] for image_id, flags in found.flags.items()}
        return {**vars(found), "flags": flags, "proposals": studio.proposals(opened)}

    def look(project: str) -> dict[str, Any]:
        """Look at what was not looked at yet; how far that is."""
        opened = studio.open(project)
        job = looking.last(opened, studio.jobs)
        if job is None or job.state in ENDED:
            job = looking.start(opened, studio.jobs)
        if job is not None and job.state not in ENDED:
            return {"missing": None, "job": {"id": job.id, "state": job.state, **studio.progress(job)}, "problem": ""}
        return {**looking.status(opened, studio.jobs, studio.images(opened)), "job": None}

    def look_again(project: str) -> dict[str, Any]:
        looking.start(studio.open(project), studio.jobs, again=True)
        return look(project)

    def decide(project: str, ids: Ids, decision: Decision) -> dict[str, Any]:
        opened = studio.open(project)
        before = opened.revision
        curation.decide(opened, ids, decision)
        if len(ids) == 1:
            studio.patch(opened, [opened.image(ids[0])], before)
        return pictures.changed(opened, ids)

    def accept(project: str, ids: Ids | None = None) -> dict[str, Any]:
        opened = studio.open(project)
        before = opened.revision
        done = curation.accept(opened, ids, studio.proposals(opened))
        if len(done) == 1:
            studio.patch(opened, [opened.image(done[0]["id"])], before)
        return {"accepted": len(done), **pictures.changed(opened, [one["id"] for one in done])}

    def choose(project: str, best: int, others: Ids, reason: str = "") -> dict[str, Any]:
        opened = studio.open(project)
        with opened.edit(f"Keep #{best}, reject {len(others)} like it") as edit:
            edit.set(best, decision="keep", reason="")
            for image_id in others:
                edit.set(image_id, decision="reject", reason=reason or f"#{best} is kept in its place")
        return pictures.changed(opened, [best, *others])

    def find(project: str, text: str, sort: str = "", down: bool = False) -> dict[str, Any]:
        opened = studio.open(project)
        every = studio.rows(opened)
        ids = filters.select(every, filters.parse(text, every))
        return {"ids": filters.order(opened, ids, sort, down, every) if sort else ids}

    def measures(project: str, ids: Annotated[list[int], Field(max_length=2)]) -> dict[str, Any]:
        opened = studio.open(project)
        images = [opened.image(image_id) for image_id in ids]
        known = rows(opened, {}, images, looking.facts(opened, images, studio.seen(opened)))
        found = []
        for title, name, form, better in MEASURED:
            values = [NUMBERS[name][1](row) for row in known]
            if any(value is not None for value in values):
                texts = ["not looked at yet" if value is None else form.format(value) for value in values]
                ranks = [None if value is None or not better else better * value for value in values]
                found.append({"name": title, "texts": texts, "values": ranks})
        return {"ids": ids, "rows": found}

    def origin(project: str, ids: Ids) -> dict[str, dict[str, Any]]:
        return provenance.common(studio.open(project), ids)

    def set_origin(project: str, ids: Ids, values: dict[Literal[PROVENANCE], str]) -> dict[str, Any]:
        opened = studio.open(project)
        provenance.save(opened, ids, values)
        return pictures.changed(opened, ids)

    return {
        "curation.audit": audit,
        "curation.look": look,
        "curation.look_again": look_again,
        "curation.decide": decide,
        "curation.accept": accept,
        "curation.choose": choose,
        "curation.find": find,
        "curation.fields": fields,
        "curation.measures": measures,
        "curation.provenance": origin,
        "curation.set_provenance": set_origin,
        **curation_set.functions(studio),
        **curation_shape.functions(studio),
    }


def fields() -> list[dict[str, str]]:
    """The words of the filter language with what they mean, and how they are written: `{"name", "text", "example"}`."""
    signs = {"numbers": " < ", "words": ":", "states": "", "flags": ""}
    found = {
        name: {"name": name, "text": about, "example": "has:trigger" if name == "has" else name + signs[group]}
        for group, words in filters.help_table().items()
        for name, about in words.items()
    }
    first = [name for name in OFFERED_FIRST if name in found]
    return [found.pop(name) for name in first] + list(found.values())


def _flag(flag: Any) -> dict[str, Any]:
    return {**vars(flag), "bad": flag.name in curation.BAD_FLAGS}


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab: the grid, and the inspector beside it."""
    part("curation", classes="ls-whole")
