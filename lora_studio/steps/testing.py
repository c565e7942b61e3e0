"""Testing: pictures of every checkpoint, strength and prompt beside the base's, measures, a recommendation, export."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lora_studio.core import images, paths
from lora_studio.core.errors import UserError
from lora_studio.core.files import inside, slug, write_bytes, write_text
from lora_studio.core.jobs import Job, JobContext, Jobs
from lora_studio.core.progress import FileWritten, Phase
from lora_studio.core.project import Project
from lora_studio.core.settings import Settings
from lora_studio.engine.config import BaseConfig, SampleJob, SampleRequest, SamplerName
from lora_studio.engine.convert import convert
from lora_studio.engine.detect import detect
from lora_studio.judge import lora as judge_lora
from lora_studio.steps import conception, gathering, training
from lora_studio.steps.contact_sheet import contact_sheet
from lora_studio.steps.grid import Cell, keep_cells, kept_cells

TARGET = "lora_studio.steps.testing:job"
Format = Literal["kohya", "diffusers"]
BLEED_DEFAULT = ("a person, simple background",)


class TestConfig(Settings):
    """What the test grid shows."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    checkpoints: tuple[str, ...] = Field((), max_length=50)
    """LoRA files of this project to compare, e.g. runs/zorbi-1/checkpoints/zorbi-1-000010.safetensors."""
    strengths: tuple[float, ...] = Field((1.0,), min_length=1, max_length=10)
    """How strongly each LoRA is applied; 1 is as it was trained."""
    learn_prompts: tuple[str, ...] = Field((), max_length=30)
    """Prompts that should show the subject."""
    bleed_prompts: tuple[str, ...] = Field((), max_length=30)
    """Prompts without the trigger that should stay as the base draws them."""
    seeds: tuple[int, ...] = Field((1, 2), min_length=1, max_length=20)
    """One picture is made for each seed."""
    num_steps: int = Field(20, ge=1, le=150)
    """Sampling steps for each picture: more is finer and slower."""
    guidance: float = Field(5.0, ge=0, le=30)
    """How closely a picture keeps to its prompt (CFG)."""
    size: int = Field(64, ge=64, le=2048, multiple_of=8)
    """Width and height of the pictures."""
    clip_skip: int = Field(1, ge=1, le=11)
    """Which layer from the end of the text part is read: as the LoRA was trained."""
    sampler: SamplerName = "ddim"
    """The method that turns noise into a picture."""


def default_config(project: Project) -> TestConfig:
    """The last run's checkpoints (at most four, spread over it) with the plan's prompts, drawn as that run did."""
    plan, files = project.plan, training.checkpoints(project)
    train = (training.settings_of(project, files[-1]["run"]) if files else None) or training.current(project)
    newest = [found["file"] for found in files if found["run"] == files[-1]["run"]] if files else []
    return TestConfig(
        checkpoints=tuple(_spread(newest, 4)),
        strengths=(0.7, 1.0),
        learn_prompts=tuple(conception.with_trigger(plan, plan.test_prompts[:4])),
        bleed_prompts=plan.bleed_prompts[:3] or BLEED_DEFAULT,
        num_steps=train.sample.num_steps,
        guidance=train.sample.guidance,
        size=max(64, train.data.resolution),
        sampler=train.sample.sampler,
        clip_skip=train.run.clip_skip,
    )


def _spread(items: list[str], most: int) -> list[str]:
    """At most `most` items, evenly spread, the last always among them."""
    if len(items) <= most:
        return items
    return [items[round((number + 1) * len(items) / most) - 1] for number in range(most)]


def cells(config: TestConfig) -> list[Cell]:
    """Every picture of a new grid, base first. A picture's file is named by all that makes it."""
    found = []
    columns = [(None, 0.0), *((file, strength) for file in config.checkpoints for strength in config.strengths)]
    prompts = [(text, "learn") for text in config.learn_prompts] + [(text, "bleed") for text in config.bleed_prompts]
    for checkpoint, strength in columns:
        for prompt, role in prompts:
            for seed in config.seeds:
                made_of = [
                    config.clip_skip,
                    checkpoint,
                    strength,
                    prompt,
                    seed,
                    config.num_steps,
                    config.guidance,
                    config.size,
                    config.sampler,
                ]
                name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
                found.append(Cell(checkpoint, strength, prompt, role, seed, f"images/{name}.png"))
    return found


def start(project: Project, jobs: Jobs, config: TestConfig) -> Job:
    """Make the grid in the background. Raises UserError when there is nothing to compare."""
    if not config.checkpoints:
        raise UserError("There is no checkpoint to test.", "Train first, or choose one of the list.")
    if not config.learn_prompts:
        raise UserError("There is no prompt to test.", "Write one that should show the subject.")
    base = base_for(project, config.checkpoints)
    family = conception.base_info(base.model).family
    for file in config.checkpoints:
        found = detect(checkpoint_path(project, file))
        if found.kind == "lora" and not _fits(found.family, family):
            raise misfit(project, file, base.model)
    folder = project.new_folder("tests", "test")
    keep_cells(folder, cells(config))
    data = {"root": str(project.root), "project": project.slug, "test": config.to_dict()}
    return jobs.start(folder, TARGET, data, f"Test {folder.name}", project.slug)


def resume(project: Project, jobs: Jobs, test: str) -> Job:
    """Go on with a stopped or interrupted test; pictures already made are kept."""
    job = jobs.get(project.job_folder("tests", test))
    config = {**job.config, "root": str(project.root), "project": project.slug}
    return jobs.start(job.folder, TARGET, config, job.title, project.slug)


def job(config: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """The job's entry: sample, embed and tag, judge; each part's results are files."""
    project = Project.open(Path(config["root"]), config["project"])
    test = TestConfig.load(config["test"])
    grid = _grid(context.folder, config)
    _sample(project, test, grid, context)
    if context.should_stop():
        return {"pictures": sum((context.folder / cell.file).exists() for cell in grid)}
    context.report(Phase("judge", "Looking at the pictures"))
    card = _judge(project, grid, context)
    write_text(context.folder / "scorecard.json", json.dumps(card, indent=1))
    context.report(FileWritten("scorecard.json", "result"))
    sheet = contact_sheet(context.folder, grid, {file: _label(file) for file in test.checkpoints})
    write_bytes(context.folder / "sheet.webp", images.webp(sheet))
    context.report(FileWritten("sheet.webp", "result"))
    return {"pictures": len(grid), "scorecard": card}


def _sample(project: Project, test: TestConfig, grid: list[Cell], context: JobContext) -> None:
    from lora_studio.engine.sampling import sample  # here, for it imports torch

    requests = [
        SampleRequest(
            path=str(context.folder / cell.file),
            lora=str(checkpoint_path(project, cell.checkpoint)) if cell.checkpoint else None,
            strength=cell.strength,
            prompt=cell.prompt,
            seed=cell.seed,
            width=test.size,
            height=test.size,
            num_steps=test.num_steps,
            guidance=test.guidance,
            sampler=test.sampler,
            clip_skip=test.clip_skip,
        )
        for cell in grid
    ]
    settings = base_for(project, test.checkpoints)
    base = paths.resolve_base(settings.model)
    drawn = sample(SampleJob(base=base, settings=settings, requests=requests).to_dict(), context)
    for failed in drawn["failed"]:
        file = next(file for file in test.checkpoints if Path(file).name == failed["lora"])
        raise misfit(project, file, settings.model, failed["reason"])


def base_for(project: Project, checkpoints: tuple[str, ...]) -> BaseConfig:
    """The base to draw with: the one that all these checkpoints were trained on, while it is there; else the
    project's."""
    found = [training.settings_of(project, run) for run in dict.fromkeys(map(_run, checkpoints))]
    trained = [settings and settings.base for settings in found]
    if trained and trained[0] is not None and all(base == trained[0] for base in trained):
        with suppress(UserError):
            conception.base_info(trained[0].model)
            return trained[0]
    return training.current(project).base.model_copy(update={"model": project.plan.base})


def _run(checkpoint: str) -> str:
    """The run of `runs/RUN/checkpoints/NAME.safetensors`."""
    return Path(checkpoint).parts[1] if len(Path(checkpoint).parts) > 1 else ""


def _fits(lora: str, base: str) -> bool:
    """Whether a LoRA of a family may fit a base of another; what is small or does not tell is let through, for
    drawing tells."""
    if "unknown" in (lora, base) or base == "hub":
        return True
    return lora == base or ("sd-small" in (lora, base) and "sdxl" not in (lora, base))


def misfit(project: Project, file: str, base: str, reason: str = "") -> UserError:
    """What to say of a checkpoint that does not fit the base, with the base that it was made for."""
    own = training.settings_of(project, _run(file))
    made = f"run {_run(file)} was trained on {own.base.model if own else 'another base'}"
    text = f"{_label(file)} of {_run(file)} does not fit {base}: {made}"
    return UserError(f"{text}{f' ({reason})' if reason else ''}.", "Test checkpoints of one base at a time.")


def _judge(project: Project, grid: list[Cell], context: JobContext) -> dict[str, Any]:
    from lora_studio.tagger.embed import embed_files  # here, for it imports torch
    from lora_studio.tagger.model import load_model

    model = load_model("starter")
    used = project.used_images()
    files = [context.folder / cell.file for cell in grid]
    embedded = embed_files(model, files)
    references = embed_files(model, [project.original_path(image) for image in used])
    names = model.vocabulary.names
    shots = [
        judge_lora.Shot(
            checkpoint=cell.checkpoint,
            strength=cell.strength,
            prompt=cell.prompt,
            role=cell.role,
            seed=cell.seed,
            embedding=np.asarray(embedded.embeddings[number]),
            tags=dict(zip(names, map(float, embedded.scores[number]), strict=True)),
            pixels=judge_lora.pixel_stats(np.asarray(images.decode(files[number]))),
        )
        for number, cell in enumerate(grid)
    ]
    plan = project.plan
    # pruned tags may be what the tagger mistook the subject for, so they count only where the plan names nothing better
    wanted = [tag for tag in plan.defining or plan.prune_tags if tag in names]
    return judge_lora.scorecard(shots, np.asarray(references.embeddings), list(dict.fromkeys(wanted))).to_dict()


def _grid(folder: Path, config: dict[str, Any]) -> list[Cell]:
    """The grid that the test began with."""
    kept = kept_cells(folder)
    return cells(TestConfig.load(config["test"])) if kept is None else kept


def tests(project: Project, jobs: Jobs) -> list[Job]:
    """The project's tests, newest first."""
    return [job for job in jobs.all(project.slug) if job.folder.parent.name == "tests"]


def view(project: Project, jobs: Jobs, test: str) -> dict[str, Any]:
    """The grid and the verdict as the page shows them: `columns` (base first), `rows` (prompt, role, seed), and
    `cells[row][column]` with a file name relative to the test, None while it is not made."""
    job = jobs.get(project.job_folder("tests", test))
    grid = _grid(job.folder, job.config)
    columns = list(dict.fromkeys((cell.checkpoint, cell.strength) for cell in grid))
    rows = list(dict.fromkeys((cell.prompt, cell.role, cell.seed) for cell in grid))
    made = {path.name for path in (job.folder / "images").glob("*.png")}
    by_place = {((cell.prompt, cell.role, cell.seed), (cell.checkpoint, cell.strength)): cell.file for cell in grid}
    events = job.events()[0]
    progress = next((event for event in reversed(events) if event["event"] == "Progress"), None)
    card = job.folder / "scorecard.json"
    return {
        "test": test,
        "state": job.state,
        "error": job.error,
        "remedy": job.remedy,
        "phase": next((event["text"] for event in reversed(events) if event["event"] == "Phase"), ""),
        "done": progress["done"] if progress else 0,
        "total": progress["total"] if progress else len(grid),
        "columns": [{"checkpoint": file, "strength": strength, "label": _label(file)} for file, strength in columns],
        "rows": [{"prompt": prompt, "role": role, "seed": seed} for prompt, role, seed in rows],
        "cells": [[_made(by_place[row, column], made) for column in columns] for row in rows],
        "scorecard": json.loads(card.read_text("utf-8")) if card.exists() else None,
        "sheet": "sheet.webp" if (job.folder / "sheet.webp").exists() else None,
    }


def _made(file: str, made: set[str]) -> str | None:
    return file if Path(file).name in made else None


def _label(checkpoint: str | None) -> str:
    return training.checkpoint_label(checkpoint) if checkpoint else "base"


def checkpoint_path(project: Project, file: str) -> Path:
    """The checkpoint's path, inside the project. Raises UserError for one that is not there."""
    path = inside(project.folder, file)
    if not path.is_file() or path.suffix != ".safetensors":
        raise UserError(f"There is no checkpoint {file} in {project.slug}.", "Choose one of the list.")
    return path


def best_checkpoint(project: Project, jobs: Jobs) -> tuple[str, str]:
    """The checkpoint to hand out and why: the newest recommendation that no later test has taken back, else the last
    one trained."""
    verdicts, worthless = "no test has been made", set()
    for test in tests(project, jobs):
        path = test.folder / "scorecard.json"
        if not path.exists():
            continue
        card = json.loads(path.read_text("utf-8"))
        choice = card["recommendation"]
        if choice and choice["checkpoint"] not in worthless:
            return choice["checkpoint"], f"recommended by {test.id}"
        if not choice:
            worthless |= {variant["checkpoint"] for variant in card["variants"]}
            verdicts = "no test recommends one"
    files = training.checkpoints(project)
    if not files:
        raise UserError("There is nothing to export yet.", "Train first.")
    return files[-1]["file"], f"the last one trained ({verdicts})"


def export(project: Project, checkpoint: str, out: Path | None = None, format: Format = "kohya") -> Path:
    """Write the checkpoint where other programs find it; returns the path (default: the project's exports).

    `kohya` loads in ComfyUI, A1111, Forge, Invoke and diffusers; `diffusers` is the PEFT layout. The result is read
    back before it takes its name. Beside it, as `.credits.txt`, whom the pictures are from, where that is known.
    Raises UserError for an unknown checkpoint or an `out` that cannot be written.
    """
    source = checkpoint_path(project, checkpoint)
    target = (
        out
        or project.folder
        / "exports"
        / f"{slug(project.plan.name)}-{source.stem.rpartition('-')[2]}-{format}.safetensors"
    )
    if target.is_dir():
        target = target / f"{slug(project.plan.name)}.safetensors"
    if target.suffix != ".safetensors":
        raise UserError(f"{target.name} is no name for a LoRA.", "Let it end in .safetensors.")
    convert(source, target, format)
    if text := gathering.credits_text(project):
        write_text(target.with_suffix(".credits.txt"), text)
    return target
