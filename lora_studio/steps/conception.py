"""Conception: what the LoRA is to be, on which base, and with which recipe, each value with its reason."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core import paths, presets
from lora_studio.core.errors import UserError
from lora_studio.core.machine import machine
from lora_studio.core.progress import Event
from lora_studio.core.project import KINDS, Plan, Project
from lora_studio.engine import hub
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.detect import Detected, detect
from lora_studio.judge import advice


@dataclass(frozen=True)
class Sample:
    """A project that ships with the studio, to learn by."""

    kind: str
    plan: Plan
    pictures: Path
    """Folder of its raw pictures, some of them bad on purpose."""
    num_pictures: int


@dataclass(frozen=True)
class Question:
    """One question of the plan; `field` is the name in `Plan` that keeps the answer."""

    field: str
    title: str
    hint: str
    use: str
    """Where the answer is used later."""


@dataclass(frozen=True)
class Recommendation:
    """A whole configuration with the reason for each value that is not a default."""

    config: TrainConfig
    reasons: dict[str, str]
    preset: str


QUESTIONS: dict[str, tuple[Question, ...]] = {
    "character": (
        Question(
            "defining",
            "What makes this character themself?",
            "Face, hair, eyes, build, signature clothes: as tags, e.g. green hair, star eyes",
            "The trigger word will stand for these; Tagging offers to prune them.",
        ),
        Question(
            "varies",
            "What may change from picture to picture?",
            "Expression, outfit, pose, background, light",
            "These tags stay in the captions, so that a prompt can still choose them.",
        ),
        Question(
            "avoid",
            "What must not be learned?",
            "Watermarks, a second person, a frame",
            "Curation: take pictures with these out.",
        ),
    ),
    "style": (
        Question(
            "defining",
            "What defines this style?",
            "Palette, brushwork or line, light, composition",
            "The trigger word will stand for these; describe the content in captions, never the style.",
        ),
        Question(
            "varies",
            "Which subjects does the set show?",
            "Many subjects in one style teach the style rather than one subject",
            "These tags stay in the captions.",
        ),
        Question("avoid", "What would break the style?", "Pictures in another technique", "Curation: take them out."),
    ),
    "concept": (
        Question(
            "defining",
            "What is the idea at its core?",
            "The thing, pose or relation as tags, e.g. eyepatch",
            "The trigger word will stand for it.",
        ),
        Question(
            "varies",
            "In which forms and surroundings does it appear?",
            "Different people, angles, places",
            "These tags stay in the captions, so that only the idea itself is learned.",
        ),
        Question("avoid", "What contradicts it?", "Other readings of the same word", "Curation: take them out."),
    ),
}
PROMPTS = (
    Question(
        "test_prompts",
        "Prompts that should show it",
        "One a line; the trigger is put in front",
        "Samples while training, and the test grid.",
    ),
    Question(
        "bleed_prompts",
        "Prompts that must not change",
        "One a line, without the trigger",
        "The test grid measures how much the LoRA leaks into them.",
    ),
)


def questions(kind: str) -> list[Question]:
    """The questions for a kind, prompts last."""
    if kind not in QUESTIONS:
        raise UserError(f"{kind} is no kind of LoRA.", f"Known: {', '.join(KINDS)}.")
    return [*QUESTIONS[kind], *PROMPTS]


def samples() -> list[Sample]:
    """The sample projects that ship with the studio: character, style, concept."""
    found = []
    for kind in KINDS:
        folder = paths.assets() / "starter" / "samples" / kind
        if (folder / "plan.toml").is_file():
            plan = Plan.load(tomllib.loads((folder / "plan.toml").read_text("utf-8")))
            pictures = folder / "images"
            found.append(Sample(kind, plan, pictures, len(list(pictures.iterdir()))))
    return found


def create(root: Path, plan: Plan) -> Project:
    """Start a project. Raises UserError when the base cannot be used, naming why."""
    base_info(plan.base)
    return Project.create(root, Plan.load({**plan.to_dict(), "base": placed(plan.base)}))


def placed(path: str) -> str:
    """A path that exists, written so that it is found from any folder; every other word as it is."""
    found = Path(path).expanduser()
    return str(found.absolute()) if path and path != "starter" and found.exists() else path


def from_sample(root: Path, kind: str) -> Project:
    """Start a project with a sample's plan; its pictures are gathered in the next step."""
    return Project.create(root, sample(kind).plan)


def sample(kind: str) -> Sample:
    """The sample of that kind."""
    for found in samples():
        if found.kind == kind:
            return found
    raise UserError(
        f"There is no sample for {kind}.", "Known: character, style, concept. Reinstall if they are missing."
    )


def sample_pictures(project: Project) -> Path | None:
    """The folder of raw pictures when this project began as a sample, else None."""
    plan = project.plan
    return next(
        (found.pictures for found in samples() if found.plan.trigger == plan.trigger and found.kind == plan.kind), None
    )


def base_info(base: str) -> Detected:
    """What the base is, found by its content. Raises UserError with the reason when it cannot be trained on.

    A name on the hub (`owner/model`) that was never fetched is not looked up here: the run fetches it.
    """
    path = Path(paths.resolve_base(base)).expanduser()
    if not path.exists():
        fetched = hub.on_disk(base)
        if fetched is None and hub.is_name(base):
            return Detected(kind="base", family="hub", detail=f"{base} on the Hugging Face hub", problem="", files=())
        if fetched is None:
            raise UserError(
                f"There is no base model at {base}.", "Name a file, a folder, a hub name like owner/model, or starter."
            )
        path = fetched
    found = detect(path)
    if found.problem or found.kind != "base":
        raise UserError(
            f"{base} cannot be used as a base: {found.problem or found.detail}.",
            "Choose a Stable Diffusion 1.x, 2.x or XL model as a folder or .safetensors file, or starter.",
        )
    return found


def fetch(base: str, report: Callable[[Event], None]) -> Detected:
    """The base, fetched from the hub where it is named so and not here yet. Raises UserError."""
    found = base_info(base)
    if found.family == "hub":
        hub.resolve(base, report)
        found = base_info(base)
    return found


def unfetched(base: str) -> str:
    """What to say of a base on the hub that is not here yet; empty for every other."""
    if base == "starter" or base_info(base).family != "hub":
        return ""
    return f"{base} is fetched at the start of the run; until then the recipe assumes Stable Diffusion 1.x."


def family(base: str) -> str:
    """Which recipes fit the base: starter, sd1, sdxl, ..., or hub where it was not fetched yet."""
    return "starter" if base == "starter" else base_info(base).family


def recommend(project: Project, wish: str = "balanced") -> Recommendation:
    """A whole configuration for this plan, this base and this many pictures."""
    plan = project.plan
    base = None if plan.base == "starter" else base_info(plan.base)
    which = family(plan.base)
    named = {preset.name: preset for preset in presets.all_presets()}
    preset = named.get(f"{plan.kind}-{which}") or named[f"{plan.kind}-sd1"]
    settings = {**preset.settings, "data": {**preset.settings.get("data", {}), **_size(base)}}
    count = sum(len(image.crops) for image in project.used_images()) or advice.TARGETS[plan.kind][0]
    found = advice.recommend(plan.kind, which, count, machine(project.root).device, wish, settings)
    config = TrainConfig.load(_merged(settings)).with_changes({**found.changes, **_own(plan)})
    return Recommendation(config, {**_base_reasons(plan.base, base), **found.reasons}, preset.name)


def _size(base: Detected | None) -> Mapping[str, Any]:
    """Picture sizes of a base whose family has no recipes of its own: of SD 2.x the models that predict v were made
    for 768 pixels, and one that does not tell is taken for such."""
    if base is None or base.family != "sd2" or base.prediction == "epsilon":
        return {}
    return {"resolution": 768, "bucket_min": 320, "bucket_max": 1280}


def _base_reasons(name: str, base: Detected | None) -> dict[str, str]:
    """What is known of the base, and what is not."""
    if base is None:
        return {}
    if base.family == "hub":
        return {"base.model": unfetched(name)}
    if base.prediction == "v_prediction":
        return {"base.prediction": "The model says that it predicts v (v-prediction); auto follows it."}
    if base.prediction:
        return {}
    if base.family == "sd2":
        text = "The file does not say what it predicts: auto takes v at 768 pixels. For a 512 base model choose epsilon"
        return {"base.prediction": f"{text} and data.resolution 512."}
    if base.family == "sdxl":
        text = "The file does not say what it predicts: auto takes epsilon. For a v-pred base (as NoobAI v-pred) choose"
        return {"base.prediction": f"{text} v_prediction, or the preset vpred-sdxl."}
    return {}


def _merged(settings: dict[str, Any]) -> dict[str, Any]:
    """The defaults with a preset's settings over them."""
    data = TrainConfig().to_dict()
    for section, values in settings.items():
        data[section] = {**data.get(section, {}), **values} if isinstance(values, dict) else values
    return data


def _own(plan: Plan) -> dict[str, Any]:
    return {"base.model": plan.base, "sample.prompts": with_trigger(plan, plan.test_prompts[:2])}


def with_trigger(plan: Plan, prompts: tuple[str, ...]) -> list[str]:
    """The prompts with the trigger in front where it is missing; the trigger alone when there are none."""
    if not plan.trigger:
        return list(prompts) or [plan.description or plan.name]
    full = [
        prompt if plan.trigger.casefold() in prompt.casefold() else f"{plan.trigger}, {prompt}" for prompt in prompts
    ]
    return full or [plan.trigger]
