"""Whether a trigger word is a good one: how the base reads it, whether it is a word already, and (a job) what the base
draws at it before any training.

The job lets the engine draw and the tagger look at what was drawn, through files.
"""

import json
import random
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import Job, JobContext, Jobs
from lora_studio.core.progress import FileWritten, Phase
from lora_studio.core.project import Plan, Project
from lora_studio.core.settings import Settings
from lora_studio.engine.config import SampleJob, SampleRequest
from lora_studio.engine.tokens import WORD_END, Counter, clip_vocabulary
from lora_studio.judge.reaction import Reaction, reaction
from lora_studio.steps import testing, tokens, training, vocabulary

TARGET = "lora_studio.steps.trigger:job"
Level = Literal["ok", "note", "warn"]
RARE = 40_000  # CLIP's tokens are numbered by how often they were met; from here on it is the rarest fifth of 49,408
LONG = 6  # tokens: a made-up word of two syllables takes 3 or 4, and all of it is paid for in every caption
MADE_UP = "Choose a made-up word of 4 to 8 letters that spells nothing, such as zorbi."


@dataclass(frozen=True)
class TriggerCheck:
    """What is known of a trigger without drawing anything."""

    word: str
    pieces: dict[str, list[str]]
    """The letters of its tokens, for each text encoder of the base; empty while the base is not here."""
    split: bool
    """Whether some encoder reads one of its words as several tokens."""
    common: bool
    """Whether all of its words mean something already."""
    level: Level
    text: str
    remedy: str = ""
    reasons: tuple[str, ...] = ()
    """How that is known, word by word."""


def check(project: Project, word: str | None = None) -> TriggerCheck:
    """What is known of the plan's trigger, or of another word. Raises UserError when the base cannot be read."""
    plan = project.plan
    word = (plan.trigger if word is None else word).strip()
    if not word:
        text = "This project has no trigger word: the LoRA acts on every prompt."
        return TriggerCheck("", {}, False, False, "note", text, "Name one in Conception, unless that is what you want.")
    counter = tokens.counter(project)
    pieces = {name: _shown(found) for name, found in counter.tokens(word).items()} if counter else {}
    reasons = {one: _known(one, counter, plan) for one in word.split()}
    common = all(reasons.values())
    split = bool(counter) and not all(counter.is_word(one) for one in word.split())
    level, text, remedy = _verdict(word, pieces, split, reasons)
    told = tuple(f"{one} {reason}" for one, found in reasons.items() for reason in found)
    return TriggerCheck(word, pieces, split, common, level, text, remedy, told)


def _shown(found: list[Any]) -> list[str]:
    """The letters of each token; a letter made of several tokens stands with its first, the rest are shown as dots."""
    return [token.text or "·" for token in found]


def _known(word: str, counter: Counter | None, plan: Plan) -> list[str]:
    """Why the word means something already; nothing where no reason is known."""
    small, found = word.casefold(), []
    if _is_rare(small):
        return []
    if counter and counter.is_word(small):
        found.append("is one whole token of the base, so the base has met it often")
    elif small in _clip_words():
        found.append("is one whole token of CLIP, whose vocabulary holds the words that captions use most")
    if small in vocabulary.book().tags or small in vocabulary.book().aliases:
        found.append("is a common tag")
    elif small in vocabulary.tagger_words(plan):
        found.append("is a tag that the auto-tagger writes")
    return found


def _is_rare(word: str) -> bool:
    return _clip_words().get(word, 0) >= RARE


@lru_cache(maxsize=1)
def _clip_words() -> dict[str, int]:
    """CLIP's tokens that are whole words, by number; empty where they are not installed."""
    try:
        every = clip_vocabulary()[0]
    except UserError:
        return {}
    return {token.removesuffix(WORD_END): number for token, number in every.items() if token.endswith(WORD_END)}


def _verdict(
    word: str, pieces: dict[str, list[str]], split: bool, reasons: dict[str, list[str]]
) -> tuple[Level, str, str]:
    most = max(pieces.values(), key=len, default=[])
    whole = vocabulary.book().tags
    if all(reasons.values()):
        first = next(iter(reasons.values()))[0]
        text = f"{word} is a common word: it {first}." if len(reasons) == 1 else f"{word} is made of common words."
        text += " The base draws something of its own at it, and prompts that mean the word would call the LoRA."
        return "warn", text, MADE_UP
    if word.casefold() in whole:
        return "warn", f"{word} is a common tag: other prompts use it, and the base knows it.", MADE_UP
    if not pieces:
        return "ok", f"{word} is no common word. How the base reads it is known once the base is here.", ""
    said = " + ".join(most)
    known = [one for one, found in reasons.items() if found]
    if known:
        text = f"{word} holds {', '.join(known)}, which the base knows: a part of that meaning will come along."
        return "note", f"{text} It is read as {said}.", "That is fine where it is meant, else leave the word out."
    if rare := [one for one in reasons if _is_rare(one.casefold())]:
        text = f"{' and '.join(rare)}: one of CLIP's rarest whole tokens. Bases of its kind have met it a little"
        return "note", f"{text}, and many other LoRAs are called by such words.", MADE_UP
    if len(most) > LONG:
        return "note", f"{word} is read in {len(most)} tokens ({said}): each caption pays for them.", MADE_UP
    if split:
        return "ok", f"{word} is no word that the base knows: it is read as {said}, as made-up words are.", ""
    return "ok", f"{word} is one token of the base, and no common word.", ""


# --- what the base draws at it ----------------------------------------------------------------------------------------


class ReactConfig(Settings):
    """How it is tried whether the base reacts to a word."""

    word: str = Field(min_length=1)
    """The trigger."""
    contexts: tuple[str, ...] = Field(("", testing.BLEED_DEFAULT[0]), min_length=1, max_length=8)
    """What stands behind it in the prompts; an empty one is the word alone."""
    seeds: tuple[int, ...] = Field((1, 2, 3, 4, 5, 6), min_length=2, max_length=20)
    """One picture is made for each."""
    made_up: int = Field(4, ge=3, le=12)
    """Words that nobody knows, to compare with."""
    num_steps: int = Field(12, ge=1, le=150)
    guidance: float = Field(5.0, ge=0, le=30)
    size: int = Field(64, ge=64, le=2048, multiple_of=8)
    """Width and height of the pictures."""


@dataclass(frozen=True)
class Drawing:
    """One picture of the trial."""

    word: str
    """Empty for the picture without any."""
    kind: Literal["with", "without", "made up"]
    context: str
    seed: int
    file: str
    """Relative to the job's folder."""


def react(project: Project, jobs: Jobs, word: str | None = None) -> Job:
    """Draw with and without the trigger (or another word) and with made-up words on the bare base, in the background.
    Raises UserError when there is no trigger."""
    config = trial_config(project, word)
    folder = project.new_folder("jobs", "react")
    title = f"What the base draws at {config.word}"
    return jobs.start(folder, TARGET, job_config(project, config), title, project.slug)


def trial_config(project: Project, word: str | None) -> ReactConfig:
    """How the plan's trigger, or another word, is tried: at the size that is trained."""
    word = (word or project.plan.trigger).strip()
    if not word:
        raise UserError("This project has no trigger word.", "Name one in Conception.")
    return ReactConfig(word=word, size=max(64, training.current(project).data.resolution))


def job_config(project: Project, config: ReactConfig) -> dict[str, Any]:
    """What the job is started with."""
    return {"root": str(project.root), "project": project.slug, "react": config.to_dict()}


def job(config: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """The job's entry: writes `drawings.json` and `reaction.json`. A stop leaves the pictures that are made."""
    project = Project.open(Path(config["root"]), config["project"])
    wanted = ReactConfig.load(config["react"])
    grid = drawings(wanted, made_up_words(wanted.word, wanted.made_up, tokens.counter(project)))
    write_text(context.folder / "drawings.json", json.dumps([asdict(one) for one in grid], indent=1))
    _draw(project, wanted, grid, context)
    if context.should_stop():
        return {"pictures": sum((context.folder / one.file).exists() for one in grid)}
    context.report(Phase("judge", "Looking at the pictures"))
    found = _judge(wanted, grid, context)
    write_text(context.folder / "reaction.json", json.dumps(asdict(found), indent=1))
    context.report(FileWritten("reaction.json", "result"))
    return {"pictures": len(grid), "reacts": found.reacts}


def made_up_words(word: str, count: int, counter: Counter | None) -> list[str]:
    """Words that nobody knows, made of syllables by chance, the same for the same word; as long in tokens as it is,
    as near as that can be."""
    chance = random.Random(word)
    length = max(4, min(8, len(word)))
    letters = ("bcdfgjklmnpqrtvwxz", "aeiouy")
    found = {"".join(chance.choice(letters[place % 2]) for place in range(length)): None for _ in range(200)}
    unknown = [one for one in found if one not in _clip_words() and one != word.casefold()]
    if counter is None:
        return unknown[:count]
    lengths = dict(zip(unknown, counter.count(unknown), strict=True))
    own = counter.count([word])[0]
    return sorted(unknown, key=lambda one: abs(lengths[one][0] - own[0]))[:count]


def drawings(config: ReactConfig, made_up: list[str]) -> list[Drawing]:
    """Every picture of the trial: the same seeds and contexts with the word, with each made-up word, and with none."""
    words = [(config.word, "with"), ("", "without"), *((word, "made up") for word in made_up)]
    return [
        Drawing(word, kind, context, seed, f"images/{number}-{place}-{seed}.png")  # type: ignore[arg-type]
        for number, (word, kind) in enumerate(words)
        for place, context in enumerate(config.contexts)
        for seed in config.seeds
    ]


def _draw(project: Project, config: ReactConfig, grid: list[Drawing], context: JobContext) -> None:
    from lora_studio.engine.brackets import escape
    from lora_studio.engine.sampling import sample  # here, for it imports torch

    requests = [
        SampleRequest(
            path=str(context.folder / one.file),
            prompt=", ".join(part for part in (escape(one.word), one.context) if part),
            seed=one.seed,
            width=config.size,
            height=config.size,
            num_steps=config.num_steps,
            guidance=config.guidance,
            clip_skip=training.current(project).run.clip_skip,
        )
        for one in grid
    ]
    settings = testing.base_for(project, ())
    base = paths.resolve_base(settings.model)
    sample(SampleJob(base=base, settings=settings, requests=tuple(requests), batch_size=8).to_dict(), context)


def _judge(config: ReactConfig, grid: list[Drawing], context: JobContext) -> Reaction:
    from lora_studio.tagger.embed import embed_files  # here, for it imports torch
    from lora_studio.tagger.model import load_model

    model = load_model("starter")
    seen = embed_files(model, [context.folder / one.file for one in grid])
    shape = (-1, len(config.contexts), len(config.seeds))
    embeddings = np.asarray(seen.embeddings).reshape(*shape, seen.embeddings.shape[-1])
    scores = np.asarray(seen.scores).reshape(*shape, seen.scores.shape[-1])
    return reaction(config.word, embeddings[0], embeddings[2:], scores[0], scores[2:], model.vocabulary.names)


@dataclass(frozen=True)
class Trial:
    """The newest trial of the project's trigger as the page shows it."""

    state: str
    """Of the job; empty when there was none."""
    job: str = ""
    word: str = ""
    reaction: Reaction | None = None
    drawings: list[Drawing] = field(default_factory=list)
    """Those that are made."""
    error: str = ""
    remedy: str = ""


def result(project: Project, jobs: Jobs) -> Trial:
    """The newest trial and what came of it."""
    found = [one for one in jobs.all(project.slug) if one.folder.parent.name == "jobs" and one.target == TARGET]
    if not found:
        return Trial("")
    newest = found[0]
    listed, verdict = newest.folder / "drawings.json", newest.folder / "reaction.json"
    grid = [Drawing(**one) for one in json.loads(listed.read_text("utf-8"))] if listed.exists() else []
    return Trial(
        state=newest.state,
        job=newest.id,
        word=newest.config["react"]["word"],
        reaction=Reaction(**json.loads(verdict.read_text("utf-8"))) if verdict.exists() else None,
        drawings=[one for one in grid if (newest.folder / one.file).exists()],
        error=newest.error,
        remedy=newest.remedy,
    )


def picture_path(project: Project, job: str, file: str) -> Path:
    """A picture of a trial, inside its job's folder. Raises UserError for one that is not there."""
    path = (project.job_folder("jobs", job) / file).resolve()
    folder = project.job_folder("jobs", job).resolve() / "images"
    if path.parent != folder or not path.is_file():
        raise UserError(f"There is no picture {file[:60]} in {job[:60]}.", "Reload the page.")
    return path
