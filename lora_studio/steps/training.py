"""Training: from a project and a configuration to a run that can be watched, stopped and resumed."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from lora_studio.core import machine, paths, presets
from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import Job, Jobs
from lora_studio.core.project import Image, Plan, Project
from lora_studio.engine import regularization
from lora_studio.engine.buckets import StepPlan, steps_for
from lora_studio.engine.config import AdapterConfig, TrainConfig, TrainJob, changed_settings
from lora_studio.engine.config import checks as settings_checks
from lora_studio.judge import loss as judge_loss
from lora_studio.steps import conception, curation
from lora_studio.steps.wording import as_trained, words_of

TARGET = "lora_studio.engine.train:train"
MIN_FREE_BYTES = 300 * 2**20


@dataclass(frozen=True)
class Check:
    """One thing looked at before the start; `level` bad forbids it, warn does not."""

    level: str
    text: str
    remedy: str = ""


def recommended(project: Project, wish: str = "balanced") -> TrainConfig:
    """The studio's configuration for this project."""
    return conception.recommend(project, wish).config


def current(project: Project) -> TrainConfig:
    """What the person last set for this project, else the recommendation."""
    path = project.folder / "train.json"
    if path.exists():
        with suppress(ValueError, OSError):  # settings of an older program: begin again from the recommendation
            return TrainConfig.load(json.loads(path.read_text("utf-8")))
    return recommended(project)


def save_current(project: Project, config: TrainConfig) -> None:
    """Keep the configuration with the project."""
    write_text(project.folder / "train.json", json.dumps(config.to_dict(), indent=1))


def back_to_recommended(project: Project) -> TrainConfig:
    """Forget the person's settings."""
    (project.folder / "train.json").unlink(missing_ok=True)
    return recommended(project)


def with_preset(project: Project, name: str) -> TrainConfig:
    """A preset's values over the recommendation for this project."""
    return preset_over(recommended(project), presets.load(name, project.root))


def preset_over(config: TrainConfig, preset: presets.Preset) -> TrainConfig:
    """A preset's values over those of a configuration."""
    flat = {f"{section}.{key}": value for section, values in preset.settings.items() for key, value in values.items()}
    return config.with_changes(flat)


def presets_for(project: Project) -> list[tuple[presets.Preset, bool]]:
    """All presets with whether they are for the project's base; those that are not come last, those of its kind of
    LoRA first."""
    try:
        found = conception.family(project.plan.base)
    except UserError:  # told by `checks`; nothing can be said of what fits
        found = "hub"
    here = {"sd2": {"sd1", "sd2"}}.get(found, {found})  # sd2 is recommended what sd1 is

    def fits(preset: presets.Preset) -> bool:
        return not preset.family or found == "hub" or preset.family in here

    def place(preset: presets.Preset) -> tuple[bool, bool]:
        return not fits(preset), preset.kind != project.plan.kind or not preset.family

    return [(preset, fits(preset)) for preset in sorted(presets.all_presets(project.root), key=place)]


def strengths(config: AdapterConfig) -> dict[str, str]:
    """By setting, what an alpha means beside its rank: `{"adapter.alpha": "4 of 8 = 0.5"}`. Empty for kinds whose
    strength is not alpha / rank."""
    if config.kind not in ("lora", "dora", "loha", "lokr", "glora"):
        return {}
    rank = config.conv_rank or config.rank
    conv_alpha = config.conv_alpha or config.alpha / config.rank * rank

    def said(alpha: float, rank: int) -> str:
        root = "√" if config.rs_lora else ""
        return f"{alpha:.4g} of {root}{rank} = {alpha / (math.sqrt(rank) if root else rank):.3g}"

    return {"adapter.alpha": said(config.alpha, config.rank), "adapter.conv_alpha": said(conv_alpha, rank)}


def step_plan(project: Project, config: TrainConfig) -> StepPlan:
    """How many steps the run will have: the very formula that the trainer uses."""
    entries = curation.entries([as_trained(image, project.plan) for image in project.used_images()])
    return steps_for(entries, config, regularization.sizes(config.data.regularization), devices(config))


def devices(config: TrainConfig) -> int:
    """How many processes the run will have: one a graphics card, at most as many as there are."""
    here = max(1, machine.num_cards())
    return min(config.run.devices or here, here)


def checks(project: Project, config: TrainConfig) -> list[Check]:
    """What stands against starting, all of it at once."""
    images, plan = project.used_images(), project.plan
    found = []
    if not images:
        found.append(Check("bad", "There are no pictures to train on.", "Gather some, or take back a rejection."))
    captioned = sum(bool(words.caption or words.prose) for words in (words_of(image, plan) for image in images))
    if images and not captioned and not plan.trigger:
        found.append(Check("bad", "No picture has a caption and there is no trigger word.", "Run the auto-tagger."))
    elif captioned < len(images):
        text = f"{len(images) - captioned} of {len(images)} pictures have no caption."
        found.append(
            Check("warn", text, "They are trained with the trigger alone; run the auto-tagger to describe them.")
        )
    family = ""
    try:
        family = conception.base_info(config.base.model).family
    except UserError as error:
        found.append(Check("bad", error.message, error.remedy))
    found += _setting_checks(project, config, family)
    masked = sum(bool(image.mask) for image in images)
    if masked and config.objective.mask_outside == 1:
        text = f"{masked} of {len(images)} pictures have a mask, but with objective.mask_outside 1 it changes nothing."
        found.append(Check("warn", text, "Set it to 0 to learn only what the masks show, or between for a little."))
    if config.optimizer.kind == "adamw8bit" and not machine.num_cards():
        text = "optimizer.kind adamw8bit needs an NVIDIA card; there is none here."
        found.append(Check("bad", text, "Choose adamw, or came to save memory."))
    if config.run.devices > devices(config):
        text = f"run.devices is {config.run.devices}, but there is only {devices(config)} here; that is what is used."
        found.append(Check("warn", text, "Lower it, or 0 for all there are."))
    free = shutil.disk_usage(project.folder).free
    if free < MIN_FREE_BYTES:
        found.append(Check("bad", f"Only {free // 2**20} MB are free on the disk.", "Free at least 300 MB."))
    return found


def _setting_checks(project: Project, config: TrainConfig, family: str) -> list[Check]:
    """What the settings do not allow, and what in them is probably not meant."""
    trained, found = [as_trained(image, project.plan) for image in project.used_images()], []
    steps = batches = 0
    try:
        plan = step_plan(project, config)
        steps, batches = plan.steps, plan.batches_per_epoch
    except UserError as error:  # of the folder of regularisation pictures
        found.append(Check("bad", error.message, error.remedy))
    facts = settings_checks.Facts(
        family=family if family != "hub" else "",
        text_layers=settings_checks.text_layers(Path(paths.resolve_base(config.base.model)).expanduser(), family),
        device="cuda" if machine.num_cards() else "",  # other devices are known to torch alone
        trigger=project.plan.trigger,
        captions=tuple(image.caption for image in trained),
        prose=tuple(image.prose for image in trained),
        steps=steps,
        batches=batches,
        processes=devices(config),
    )
    found += [Check("bad", _as_sentence(text)) for text in settings_checks.problems(config, facts)]
    return found + [Check("warn", _as_sentence(text)) for text in settings_checks.warnings(config, facts)]


def _as_sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def start(project: Project, jobs: Jobs, config: TrainConfig, prepare: bool = False) -> Job:
    """Take a snapshot of the pictures and captions and start the run in the background; with `prepare` only write its
    folder, for processes that somebody starts on several machines.

    Raises UserError with all that stands against it.
    """
    bad = [check for check in checks(project, config) if check.level == "bad"]
    if bad:
        raise UserError(" ".join(check.text for check in bad), " ".join(check.remedy for check in bad))
    config = _placed(config)
    folder = project.new_folder("runs", project.plan.name)
    write_text(folder / "dataset.json", json.dumps(snapshot(project), indent=1))
    write_text(folder / "config.toml", tomli_w.dumps(_without_none(config.to_dict())))
    job = TrainJob(
        settings=config,
        base=paths.resolve_base(config.base.model),
        dataset=str(folder / "dataset.json"),
        cache=str(project.folder / "cache"),
        name=folder.name,
        trigger=project.plan.trigger,
        description=project.plan.description,
        licence=project.plan.licence,
        author=project.plan.author,
        credit=project.plan.credit,
        tags=tuple(filter(None, (project.plan.kind, project.plan.trigger))),
        world=devices(config),
    )
    begin = jobs.prepare if prepare else jobs.start
    return begin(folder, TARGET, job.to_dict(), f"Training {folder.name}", project.slug)


def _placed(config: TrainConfig) -> TrainConfig:
    """The same with paths that are found from any folder: a run may be resumed from another one."""
    here = {
        "base.model": config.base.model,
        "base.vae": config.base.vae,
        "adapter.continue_from": config.adapter.continue_from,
        "data.regularization": config.data.regularization,
    }
    return config.with_changes({name: conception.placed(path) for name, path in here.items()})


def resume(project: Project, jobs: Jobs, run: str, changes: dict[str, Any] | None = None, prepare: bool = False) -> Job:
    """Go on with a stopped, failed or interrupted run from its newest whole state; with more epochs also with one that
    has reached its end. `changes` are settings by dotted name, `prepare` as in `start`.

    Raises UserError naming the settings that a run cannot change on its way.
    """
    folder = project.job_folder("runs", run)
    job = jobs.get(folder)
    before = TrainConfig.load(job.config["settings"])
    config = before.with_changes(changes or {})
    _, refused = changed_settings(before, config)
    if refused:
        raise UserError(f"A resumed run cannot change {', '.join(refused)}.", "Start a new run with the new values.")
    if job.state == "done" and config.run.epochs <= before.run.epochs:
        raise UserError(f"{run} has reached its end.", "Raise run.epochs to go on, or start a new run.")
    if config != before:
        write_text(folder / "config.toml", tomli_w.dumps(_without_none(config.to_dict())))
    # where the project lies may have changed since: paths are made anew
    data = {
        **job.config,
        "settings": config.to_dict(),
        "resume": True,
        "dataset": str(folder / "dataset.json"),
        "cache": str(project.folder / "cache"),
        "base": paths.resolve_base(config.base.model),
        "world": devices(config),
    }
    begin = jobs.prepare if prepare else jobs.start
    return begin(folder, TARGET, data, job.title, project.slug)


def snapshot(project: Project) -> dict[str, Any]:
    """The dataset as it is now, paths relative to a run folder. The trigger stands first in every caption, alone where
    there is none.

    Each crop is a picture of its own: the first has the picture's number, the next `12-2`. A mask is of the whole
    picture; the trainer cuts it alike.
    """
    plan = project.plan
    return {"images": [entry for image in project.used_images() for entry in _entries(project, image, plan)]}


def _entries(project: Project, image: Image, plan: Plan) -> Iterator[dict[str, Any]]:
    mask, words = project.mask_path(image), words_of(image, plan).led
    for number, crop in enumerate(image.crops, 1):
        yield {
            "id": str(image.id) if number == 1 else f"{image.id}-{number}",
            "file": _from_run(project, project.original_path(image)),
            "caption": words.caption,
            "prose": words.prose,
            "repeats": image.repeats,
            "crop": crop,
            "width": image.width,
            "height": image.height,
            "sha256": image.sha256,
            "background": plan.background,
            "mask": _from_run(project, mask) if mask else None,
        }


def _from_run(project: Project, path: Path) -> str:
    """A path of the project as seen from the folder of a run."""
    return Path("../..", path.relative_to(project.folder)).as_posix()


def settings_of(project: Project, run: str) -> TrainConfig | None:
    """What a run was trained with; None when that cannot be read any more."""
    try:
        data = json.loads((project.folder / "runs" / run / "config.json").read_text("utf-8"))
        return TrainConfig.load(data["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def runs(project: Project, jobs: Jobs) -> list[Job]:
    """The project's runs, newest first."""
    return [job for job in jobs.all(project.slug) if job.folder.parent.name == "runs"]


def checkpoints(project: Project) -> list[dict[str, Any]]:
    """Saved LoRA files of all runs, in order of training: `{"file", "run", "epoch", "label", "name"}`; `file` is
    relative to the project, `epoch` 0 for one saved in between (by hand or by a stop)."""
    found = []
    for path in sorted(
        project.folder.glob("runs/*/checkpoints/[!.]*.safetensors"), key=lambda path: path.stat().st_mtime
    ):
        run, last = path.parent.parent.name, path.stem.rpartition("-")[2]
        file = path.relative_to(project.folder).as_posix()
        label = checkpoint_label(file)
        epoch = int(last) if last.isdecimal() else 0
        found.append({"file": file, "run": run, "epoch": epoch, "label": label, "name": f"{run}, {label}"})
    return found


def checkpoint_label(file: str) -> str:
    """`epoch 3` or `step 120` from the end of a checkpoint's name."""
    stem = Path(file).stem
    last = stem.rpartition("-")[2]
    if last.isdecimal():
        return f"epoch {int(last)}"
    step = last.removeprefix("step")
    return f"step {int(step)}" if step.isdecimal() else stem


def view(project: Project, jobs: Jobs, run: str, since: int = 0) -> dict[str, Any]:
    """Everything the page shows of a run. `events` since the given offset are folded into points and lists;
    with `since=0` all of it. The verdict is over the whole run."""
    job = jobs.get(project.job_folder("runs", run))
    events, offset = job.events(since)
    every = events if since == 0 else job.events()[0]
    shown = _fold(events)
    whole = shown if since == 0 else _fold(every)
    last = next((event for event in reversed(every) if event["event"] == "Step"), None)
    shown |= {
        "run": run,
        "state": job.state,
        "error": job.error,
        "remedy": job.remedy,
        "created": job.created,
        "offset": offset,
        "step": last["step"] if last else 0,
        "total": last["total"] if last else 0,
        "epoch": last["epoch"] if last else 0,
        "loss": last["loss"] if last else None,
        "phase": next((event["text"] for event in reversed(every) if event["event"] in ("Phase", "Progress")), ""),
        "memory": _memory(job),
        "verdict": verdict(whole, holds_out(job)),
    }
    recent = [event["seconds"] for event in every[-200:] if event["event"] == "Step"]
    shown["seconds_per_step"] = sum(recent) / len(recent) if recent else None
    left = shown["total"] - shown["step"]
    shown["eta"] = left * shown["seconds_per_step"] if recent and job.is_alive else None
    return shown


def holds_out(job: Job) -> bool:
    """Whether the run keeps pictures from the training to validate on."""
    share = job.config["settings"]["run"]["validation_share"]
    return share > 0 and len(json.loads((job.folder / "dataset.json").read_text("utf-8"))["images"]) > 1


def verdict(folded: dict[str, Any], held_out: bool) -> dict[str, Any]:
    """The judge's words on a run, from folded events."""
    steps = [point[0] for point in folded["points"]]
    losses = [point[1] for point in folded["points"]]
    validation = [tuple(point) for point in folded["validation"]]
    return asdict(judge_loss.verdict(steps, losses, validation, held_out=held_out))


def _fold(events: list[dict[str, Any]]) -> dict[str, Any]:
    points: dict[int, list[float]] = {}
    validation: dict[int, float] = {}
    files: dict[str, list[dict[str, Any]]] = {"sample": [], "checkpoint": []}
    notes = []
    for event in events:
        match event["event"]:
            case "Step":
                points[event["step"]] = [event["step"], event["loss"], max(event["lr"].values(), default=0.0)]
            case "Validation":
                validation[event["step"]] = event["loss"]
            case "FileWritten" if event["kind"] in files:
                files[event["kind"]].append({key: event[key] for key in ("path", "step", "epoch", "info")})
            case "Note":
                notes.append({"text": event["text"], "level": event["level"], "time": event["time"]})
    return {  # a resumed run tells some steps twice: the later word counts
        "points": [points[step] for step in sorted(points)],
        "validation": [[step, validation[step]] for step in sorted(validation)],
        "samples": list({file["path"]: file for file in files["sample"]}.values()),
        "checkpoints": list({file["path"]: file for file in files["checkpoint"]}.values()),
        "notes": list({note["text"]: note for note in notes}.values()),
    }


def _memory(job: Job) -> int | None:
    """Bytes in use by the job's process now; None when it has ended."""
    if job.is_alive:
        with suppress(psutil.Error):
            return psutil.Process(job.pid).memory_info().rss
    return None


def _without_none(data: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in data.items() if v is not None}
