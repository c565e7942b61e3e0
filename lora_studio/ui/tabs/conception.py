"""Conception: a sample or an own project, its plan, and the recommended recipe."""

import json
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Literal

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.core.project import KINDS, Plan
from lora_studio.core.settings import SettingInfo, describe
from lora_studio.engine.config import TrainConfig
from lora_studio.steps import conception, looking, training
from lora_studio.ui import form
from lora_studio.ui.components.part import heading, part, sentence
from lora_studio.ui.components.say import message, told
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio

LISTS = ("defining", "varies", "avoid", "test_prompts", "bleed_prompts")
"""The answers of the plan, in the order of their fields on the page."""
FILES = {
    "author": ("Author", "Who makes the LoRA. Stands in its files; empty says nothing."),
    "licence": ("Licence of the pictures", "For instance CC BY 4.0; single pictures can have their own, in Gathering."),
    "credit": ("Thanks to", "Whom to thank for the pictures. Goes with an exported LoRA."),
    "tagger": (
        "Auto-tagger",
        "It looks at the pictures: starter, a folder with an open_clip model, or one fetched from the hub.",
    ),
}
"""What else the plan says, with title and explanation."""
SHOWN = (
    "adapter.rank",
    "adapter.alpha",
    "optimizer.unet_lr",
    "optimizer.text_encoder_lr",
    "schedule.kind",
    "data.resolution",
    "data.batch_size",
    "data.repeats",
    "run.epochs",
)
"""Settings that the recipe always shows, with or without a reason."""
KIND_CHOICES = [
    ("Character: one person or being", "character"),
    ("Style: a way of drawing", "style"),
    ("Concept: a thing, pose or idea", "concept"),
]


@cache
def known_words() -> frozenset[str]:
    """Words that the starter's text part has a token of their own for; those are words it may already know."""
    path = paths.assets() / "starter" / "base" / "tokenizer" / "vocab.json"
    if not path.is_file():
        return frozenset()
    return frozenset(word.removesuffix("</w>") for word in json.loads(path.read_text("utf-8")) if word.endswith("</w>"))


def trigger_note(trigger: str) -> tuple[str, str]:
    """(level, sentence) on how good a trigger word is: `bad` cannot be used, `warn` can but should not."""
    word = trigger.strip()
    if not word:
        return "warn", "Choose a word that stands for what you teach, for instance zorbi or inkwash_mia."
    if "," in word:
        return "bad", "A comma would split it into two tags. Use one word."
    if len(word.split()) > 1:
        return "warn", "One word works best; several words each keep the meaning they already have."
    if word.casefold() in known_words() or len(word) < 3:
        return (
            "warn",
            f"The base already knows “{word}”; one without a meaning learns cleaner, for instance {word}x or z{word}.",
        )
    return "good", f"“{word}” is one unusual word: good."


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's scripts call."""

    def samples() -> list[dict[str, Any]]:
        return [
            {
                "kind": found.kind,
                "name": found.plan.name,
                "title": found.plan.title,
                "description": found.plan.description,
                "pictures": found.num_pictures,
                "covers": _covers(found.pictures),
            }
            for found in conception.samples()
        ]

    def sample(kind: Literal["character", "style", "concept"]) -> str:
        return conception.from_sample(studio.root, kind).slug

    def recipe(project: str, wish: Literal["balanced", "quality", "speed"] = "balanced") -> dict[str, Any]:
        found = conception.recommend(studio.open(project), wish)
        values = found.config.to_dict()
        strengths = training.strengths(found.config.adapter)
        rows = [
            {
                "name": info.name,
                "title": form.title(info),
                "doc": info.doc,
                "value": strengths.get(info.name) or _recipe_value(info, form.dotted(values, info.name)),
                "reason": found.reasons.get(info.name, ""),
            }
            for info in describe(TrainConfig)
            if info.name in SHOWN or found.reasons.get(info.name)
        ]
        return {"preset": found.preset, "rows": rows}

    return {"conception.samples": samples, "conception.sample": sample, "conception.recipe": recipe}


def _recipe_value(info: SettingInfo, value: Any) -> Any:
    return form.label(value) if info.type == "choice" else value


def _covers(pictures: Path) -> list[str]:
    """Three of the sample's good pictures, spread over it (the raw ones hold bad ones on purpose)."""
    named = sorted(path.name for path in pictures.glob("*.png") if path.stem.rpartition("_")[2].isdecimal())
    return named[3 :: max(1, len(named) // 3)][:3]


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab. `steps` triggers navigate, `current` holds the open project, `said` shows messages."""
    with gr.Column(elem_id="ls-start", elem_classes="ls-scroll"):
        part("samples")
        with gr.Column(elem_classes="ls-card", elem_id="ls-create"):
            _create_form(studio, said)
    with gr.Row(elem_id="ls-plan", elem_classes="ls-split"):
        with gr.Column(elem_classes="ls-scroll ls-main-column"):
            _plan_form(studio, steps, current, said)
        part("recipe", classes="ls-inspector")


def _create_form(studio: Studio, said: gr.HTML) -> None:
    heading("Or start your own")
    with gr.Row():
        name = gr.Textbox(label="Name", placeholder="Aurora the fox", max_length=80, scale=2)
        trigger = gr.Textbox(label="Trigger word", placeholder="zorbi", max_length=60, scale=1)
    kind = gr.Radio(KIND_CHOICES, value="character", label="What shall the LoRA learn?")
    base = gr.Textbox(
        label="Base model",
        value="starter",
        info="starter, or the path of a model folder or .safetensors file, or a hub name",
    )
    note = sentence(_note(""))
    create = gr.Button("Create project", variant="primary", elem_id="ls-create-button")

    def on_create(name: str, kind: str, trigger: str, base: str) -> str:
        if not (name or "").strip():
            raise UserError("The project needs a name.", "Type one in the first field.")
        if not (trigger or "").strip():
            raise UserError("The trigger word is missing.", "Choose a word the base does not know, for instance zorbi.")
        plan = Plan.load(
            {"name": name.strip(), "kind": kind, "trigger": trigger.strip(), "base": (base or "").strip() or "starter"}
        )
        text = " ".join(filter(None, [f"{plan.name} is ready.", conception.unfetched(plan.base)]))
        return message(text, project=conception.create(studio.root, plan).slug, step="conception")

    trigger.change(_note, trigger, note, api_visibility="private", show_progress="hidden")
    for event in (create.click, name.submit, trigger.submit):
        event(told(on_create, 1), [name, kind, trigger, base], said, api_visibility="private", show_progress="hidden")


def _note(trigger: str) -> str:
    level, text = trigger_note(trigger or "")
    return f'<div class="ls-note {level}">{escape(text)}</div>'


def _plan_form(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    with gr.Column(elem_classes="ls-card"):
        heading("The plan")
        with gr.Row():
            name = gr.Textbox(label="Name", max_length=80, scale=2)
            trigger = gr.Textbox(label="Trigger word", max_length=60)
        note = sentence()
        kind = gr.Radio([(text.partition(":")[0], value) for text, value in KIND_CHOICES], label="Kind")
        base = gr.Textbox(label="Base model", max_length=1000)
        description = gr.Textbox(label="What should come out, in a sentence", lines=2, max_length=2000)
    with gr.Column(elem_classes="ls-card"):
        heading(
            "Think it through", "Saved as you go. The answers shape the captions, the sample pictures and the test."
        )
        answers = [gr.Textbox(label=field, lines=2, max_length=5000, elem_id=f"ls-plan-{field}") for field in LISTS]

    with gr.Column(elem_classes="ls-card"):
        heading("Names and helpers")
        files = [
            gr.Textbox(label=title, info=info, max_length=1000, elem_id=f"ls-plan-{field}")
            for field, (title, info) in FILES.items()
        ]

    fields = [name, trigger, kind, base, description, *answers, *files]

    def on_navigate(event: gr.EventData) -> Any:
        where = event._data or {}
        if where.get("step") != "conception" or not where.get("project"):
            return [gr.skip()] * (len(fields) + 2)
        plan = studio.open(str(where["project"])).plan
        return [
            plan.name,
            plan.trigger,
            plan.kind,
            plan.base,
            plan.description,
            *_questions(plan),
            *(getattr(plan, field) for field in FILES),
            _note(plan.trigger),
            gr.skip(),
        ]

    def on_save(project: str, *values: Any) -> tuple[Any, str]:
        opened = studio.open(project or "")
        before = opened.plan
        plan = _plan(before, values)
        if plan.base != before.base:
            conception.base_info(plan.base)
        if plan.tagger != before.tagger and (missing := looking.no_tagger(plan)):
            raise UserError(missing)
        if plan != before:
            opened.save_plan(plan)
        return _note(plan.trigger), message("Saved" if plan != before else "")

    steps.navigate(
        told(on_navigate, len(fields) + 2),
        None,
        [*fields, note, said],
        api_visibility="private",
        show_progress="hidden",
    )
    for event in (kind.input, *(field.blur for field in (name, trigger, base, description, *answers, *files))):
        event(told(on_save, 2), [current, *fields], [note, said], api_visibility="private", show_progress="hidden")


def _questions(plan: Plan) -> list[Any]:
    """Updates of the answers' fields: the questions differ by kind."""
    asked = {question.field: question for question in conception.questions(plan.kind)}
    return [
        gr.update(label=asked[field].title, info=asked[field].hint, value=_shown(field, getattr(plan, field)))
        for field in LISTS
    ]


def _shown(field: str, answers: tuple[str, ...]) -> str:
    return ("\n" if field.endswith("prompts") else ", ").join(answers)


def _plan(before: Plan, values: tuple[Any, ...]) -> Plan:
    """The plan with what stands in the form. Raises SettingsError."""
    name, trigger, kind, base, description, *texts = ((value or "") for value in values)
    answers, files = texts[: len(LISTS)], texts[len(LISTS) :]
    changes: dict[str, Any] = {
        "name": name.strip(),
        "trigger": trigger.strip(),
        "kind": kind,
        "base": base.strip() or "starter",
    }
    changes["description"] = description.strip()
    changes |= {field: text.strip() for field, text in zip(FILES, files, strict=True)}
    changes["tagger"] = changes["tagger"] or "starter"
    if kind not in KINDS:
        raise UserError(f"{kind} is no kind of LoRA.", f"Known: {', '.join(KINDS)}.")
    for field, text in zip(LISTS, answers, strict=True):
        parts = text.splitlines() if field.endswith("prompts") else text.replace("\n", ",").split(",")
        changes[field] = [part.strip() for part in parts if part.strip()]
    return Plan.load({**before.to_dict(), **changes})
