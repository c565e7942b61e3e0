"""Tagging's auto-tagger: which models there are, the running job, its answers with a preview before."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lora_studio.core import tags
from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import ENDED, Job
from lora_studio.core.project import Project
from lora_studio.core.settings import describe
from lora_studio.steps import tagging
from lora_studio.tagger import models
from lora_studio.tagger.config import TagConfig
from lora_studio.tagger.vocabulary import BOORU, load_vocabulary
from lora_studio.ui import guards
from lora_studio.ui.studio import Studio
from lora_studio.ui.tabs import tagging_files, tagging_seen

Ids = Annotated[list[int], Field(max_length=200_000)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Words = Annotated[str, Field(max_length=1_000_000)]
MAX_LISTED = 1000
"""Pictures without an answer that are named; more than that is a number."""
LEFT, TAKEN = "left", "taken"
"""Files in the folder of a tagging: nobody wants its answers; a page took them over without asking."""
WORDS = "tagger-words.txt"
"""File in the project's folder: what a model that knows any word looks for."""


def functions(studio: Studio) -> dict[str, Any]:
    """What the tagger's panel, the files' dialog and "As trained" call."""
    return _choosing(studio) | _tagging(studio) | tagging_files.functions(studio) | tagging_seen.functions(studio)


def _choosing(studio: Studio) -> dict[str, Callable[..., Any]]:
    def cards(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        words = opened.folder / WORDS
        return {
            "cards": [_row(card) for card in models.cards()],
            "settings": describe(TagConfig),
            "config": tagging.recommended(opened).to_dict(),
            "words": words.read_text("utf-8") if words.exists() else "",
            "categories": _categories(),
            "owner": guards.owner.get(),
        }

    def card(project: str, name: Name) -> dict[str, Any]:
        studio.open(project)
        name = _allowed(name)
        known = next((one for one in models.cards() if one.name == name), None)
        if known is not None:
            return _row(known)
        kind = models.kind_of(name)
        title = Path(name).name if Path(name).expanduser().is_dir() else name
        return {
            "name": name,
            "kind": kind,
            "title": title,
            "about": name if title != name else "",
            "bytes": 0,
            "speed": "",
            "licence": "",
            "present": models.on_disk(name) is not None,
            "source": name,
            "answers": "sentences" if kind == "captioner" else "tags",
            "own": True,
        }

    return {"tagger.cards": cards, "tagger.card": card}


def _row(card: models.Card) -> dict[str, Any]:
    return {name: getattr(card, name) for name in models.Card.__dataclass_fields__} | {"own": False}


def _categories() -> dict[str, list[str]]:
    """The kinds of tags by the kind of model, for leaving some out."""
    starter = sorted(set(load_vocabulary(models.starter() / models.TAGS).categories))
    booru = [name for name, _ in BOORU.values()]
    words = sorted({*tags.book().tags.values()})
    return {"starter": starter, "open_clip": starter, "zero_shot": words, "wd": booru, "onnx": booru}


def _allowed(name: str) -> str:
    """A model's name as the page gave it. Raises UserError for a folder that is not the asker's to name."""
    name = name.strip().strip("\"'")
    named = Path(name).expanduser()
    if (named.is_absolute() or name.startswith((".", "~")) or named.exists()) and not guards.owner.get():
        raise UserError(
            "Folders of the studio's machine can be named only on that machine itself.",
            "Choose a model of the list, or name one of the hub: owner/model.",
        )
    return name


def _tagging(studio: Studio) -> dict[str, Callable[..., Any]]:
    def start(project: str, config: dict[str, Any] | None = None, ids: Ids | None = None, words: Words = "") -> str:
        opened = studio.open(project)
        wanted = TagConfig.load({**tagging.recommended(opened).to_dict(), **(config or {})})
        named = [_allowed(name) for name in wanted.models]
        if "vocabulary" in (config or {}) and config["vocabulary"]:
            raise UserError("The list of words is given as text here.", "Reload the page.")
        changes: dict[str, Any] = {"models": named, "vocabulary": ""}
        if words.strip() and any(models.kind_of(name) == "zero_shot" for name in named):
            write_text(opened.folder / WORDS, words.strip() + "\n")
            changes["vocabulary"] = str(opened.folder / WORDS)
        return tagging.start(opened, studio.jobs, TagConfig.load({**wanted.to_dict(), **changes}), ids).id

    def resume(project: str) -> str:
        opened = studio.open(project)
        for name in (LEFT, TAKEN, tagging.APPLIED):
            (_last(studio, opened).folder / name).unlink(missing_ok=True)
        return tagging.resume(opened, studio.jobs).id

    def state(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        found = tagging.state(opened, studio.jobs)
        if not found["job"]:
            return {"job": None, "trigger": opened.plan.trigger}
        job = tagging.last(opened, studio.jobs)
        assert job is not None
        failed, config = found.pop("failed"), found.pop("config")
        shown = {
            **found,
            "id": found.pop("job"),
            "models": config["models"],
            "waits": found["state"] == "queued" and any(one.folder != job.folder for one in studio.running()),
            "tagged": len(job.config["images"]) - found["left"] if found["state"] in ENDED else found["done"],
            "failed": failed[:MAX_LISTED],
            "num_failed": len(failed),
            "applied": found["applied"] is not None or (job.folder / LEFT).exists(),
        }
        return {"job": shown, "trigger": opened.plan.trigger}

    def preview(project: str, mode: tagging.Mode) -> dict[str, Any]:
        opened = studio.open(project)
        return tagging.preview(opened, _last(studio, opened).folder, mode).page()

    def apply(project: str, mode: tagging.Mode, digest: str | None = None) -> dict[str, Any]:
        opened = studio.open(project)
        job = _last(studio, opened)
        marker = job.folder / TAKEN
        if digest is None:  # nobody asked: of two open pages only one takes the answers over
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return {"written": 0, "skipped": 0, "failed": [], "again": True}
        try:
            report = tagging.apply(opened, job.folder, mode, digest)
        except BaseException:
            marker.unlink(missing_ok=True)
            raise
        return {**report, "failed": report["failed"][:MAX_LISTED], "num_failed": len(report["failed"])}

    def discard(project: str) -> None:
        (_last(studio, studio.open(project)).folder / LEFT).touch()

    return {
        "tagger.start": start,
        "tagger.resume": resume,
        "tagger.state": state,
        "tagger.preview": preview,
        "tagger.apply": apply,
        "tagger.discard": discard,
    }


def _last(studio: Studio, project: Project) -> Job:
    """The last tagging, which has ended. Raises UserError."""
    job = tagging.last(project, studio.jobs)
    if job is None or job.state not in ENDED:
        raise UserError("The tagger has nothing to hand over yet.", "Start it, or wait until it has ended.")
    return job
