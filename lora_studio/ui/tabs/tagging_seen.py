"""Tagging's view "As trained": captions as training will show them, and what the base makes of the trigger."""

from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import ENDED
from lora_studio.engine.config import DataConfig
from lora_studio.engine.tokens import Counter
from lora_studio.steps import seen, tokens, trigger
from lora_studio.ui.studio import Studio

Ids = Annotated[list[int], Field(max_length=100)]
ENCODERS = {"text_encoder": "CLIP-L", "text_encoder_2": "OpenCLIP-G"}
"""What the text encoders are called on the page, by their folders' names."""
PAIRS = 4
"""Pictures without and with the word that the page shows."""


def functions(studio: Studio) -> dict[str, Any]:
    """What the view calls."""

    def sample(
        project: str,
        ids: Ids | None = None,
        count: Annotated[int, Field(ge=1, le=100)] = 12,
        seed: Annotated[int, Field(ge=0)] | None = None,
    ) -> dict[str, Any]:
        """`seed` None shows what a run of the project as it is set will show."""
        opened = studio.open(project)
        config = studio.config(opened)
        rows = seen.sample(opened, ids, count, seed, config)
        counter = tokens.counter(opened, config)
        missing = "" if counter else f"{config.base.model} is not on this disk yet: its tokens are counted once it is."
        return {
            "rows": [{**row, **_read(counter, row["text"], config.data.max_tokens)} for row in rows],
            "trigger": opened.plan.trigger,
            "settings": _settings(config.data, opened.plan.trigger),
            "note": missing,
        }

    def check(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        found = trigger.check(opened)
        pieces = {ENCODERS.get(name, name): pieces for name, pieces in found.pieces.items()}
        return {"check": {**vars(found), "pieces": pieces}, "trial": _trial(studio, project)}

    def react(project: str) -> str:
        opened = studio.open(project)
        running = trigger.result(opened, studio.jobs)
        if running.state and running.state not in ENDED:
            raise UserError("The word is being tried already.", "Wait for it or stop it first.")
        return trigger.react(opened, studio.jobs).id

    return {"seen.sample": sample, "seen.trigger": check, "seen.react": react}


def _read(counter: Counter | None, text: str, limit: int) -> dict[str, Any]:
    """What the text encoders read of a caption: `{"read", "unread": what is cut off, "counts": {encoder: tokens},
    "limit", "ids", "pieces": {encoder: [...]}}`, the last two with what is cut off as well."""
    if counter is None:
        return {"read": text, "unread": "", "counts": {}, "limit": limit, "ids": {}, "pieces": {}}
    cuts, found = counter.cut(text, limit), counter.tokens(text)
    kept = min((cut.kept_chars for cut in cuts.values()), default=len(text))
    return {
        "read": text[:kept],
        "unread": text[kept:],
        "counts": {ENCODERS.get(name, name): cut.count for name, cut in cuts.items()},
        "limit": limit,
        "ids": {ENCODERS.get(name, name): [token.id for token in all_] for name, all_ in found.items()},
        "pieces": {ENCODERS.get(name, name): [token.text or "·" for token in all_] for name, all_ in found.items()},
    }


def _settings(data: DataConfig, word: str) -> list[str]:
    """The settings that decide what is shown, in words."""
    kept = max(data.keep_tokens, 1 if word else 0)
    told = ["tags are shuffled" if data.shuffle_tags else "tags keep their order"]
    if kept and (data.shuffle_tags or data.tag_dropout):
        told.append(f"the first {kept} stay" if kept > 1 else "the first stays")
    if data.tag_dropout:
        told.append(f"{data.tag_dropout:.0%} of the tags left out")
    if data.caption_dropout:
        told.append(f"{data.caption_dropout:.0%} without a caption")
    if data.wildcards:
        told.append("{a|b} drawn anew")
    return [*told, f"up to {data.max_tokens} tokens"]


def _trial(studio: Studio, project: str) -> dict[str, Any] | None:
    """The newest trial of the trigger as the page shows it; None before the first, and when the word is another now."""
    opened = studio.open(project)
    found = trigger.result(opened, studio.jobs)
    if not found.state or found.word != opened.plan.trigger:
        return None
    job = studio.jobs.get(opened.job_folder("jobs", found.job))
    place = f"/media/{quote(project)}/trials/{quote(found.job)}/"
    without = {(one.context, one.seed): one for one in found.drawings if one.kind == "without"}
    pairs = [
        {"context": one.context, "without": place + _name(before), "with": place + _name(one)}
        for one in found.drawings
        if one.kind == "with" and (before := without.get((one.context, one.seed)))
    ]
    verdict = found.reaction
    return {
        "id": found.job,
        "state": found.state,
        "error": found.error,
        "remedy": found.remedy,
        "pairs": pairs[:: max(1, len(pairs) // PAIRS)][:PAIRS],
        "level": "" if verdict is None else "warn" if verdict.reacts else "good",
        "verdict": verdict.text if verdict else "",
        "advice": verdict.remedy if verdict else "",
        **studio.progress(job),
    }


def _name(drawing: trigger.Drawing) -> str:
    return quote(drawing.file.rpartition("/")[2])
