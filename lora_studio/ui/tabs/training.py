"""Training: the settings with their advice on the right, the run as it goes on the left."""

from dataclasses import dataclass
from html import escape
from typing import Annotated, Any, Literal

from pydantic import Field

from lora_studio.core import presets
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import ENDED
from lora_studio.core.project import Project
from lora_studio.core.settings import SettingInfo, SettingsError, describe
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.schedules import learning_rate
from lora_studio.steps import training
from lora_studio.ui import form
from lora_studio.ui.components.part import part, sentence
from lora_studio.ui.components.say import message, told
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio

SIMPLE = (
    "run.epochs",
    "data.repeats",
    "adapter.rank",
    "adapter.alpha",
    "optimizer.unet_lr",
    "optimizer.text_encoder_lr",
    "data.batch_size",
    "data.resolution",
)
"""The settings that matter; all others are in the sections below."""
ELSEWHERE = (*SIMPLE, "base.model")  # the base is chosen in Conception
SECTIONS = {
    "base": "Base model",
    "adapter": "Adapter",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "data": "Pictures and captions",
    "objective": "Objective",
    "run": "Run",
    "sample": "Sample pictures",
}
RECOMMENDED, OWN = "recommended", "own"
FIRST = [("Recommended", RECOMMENDED), ("Your own settings", OWN)]
BACK = "Back to the recommendation"
LISTENERS: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
EDITS = {**LISTENERS, "trigger_mode": "always_last"}


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's script calls."""

    def runs(project: str) -> list[dict[str, Any]]:
        return [
            {"id": job.id, "state": job.state, "created": job.created, "error": job.error}
            for job in training.runs(studio.open(project), studio.jobs)
        ]

    def view(project: str, run: str, since: Annotated[int, Field(ge=0)] = 0) -> dict[str, Any]:
        return training.view(studio.open(project), studio.jobs, run, since)

    def command(project: str, run: str, word: Literal["pause", "resume", "stop", "save", "sample"]) -> None:
        studio.jobs.command(studio.open(project).job_folder("runs", run), word)

    def resume(project: str, run: str) -> str:
        return training.resume(studio.open(project), studio.jobs, run).id

    return {"training.runs": runs, "training.view": view, "training.command": command, "training.resume": resume}


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab."""
    with gr.Row(elem_classes="ls-split ls-train"):
        part("training", classes="ls-whole")
        with gr.Column(elem_classes="ls-inspector ls-form", elem_id="ls-train-form"):
            with gr.Row(elem_classes="ls-form-head"):
                preset = gr.Dropdown([], label="Preset", elem_id="ls-preset", min_width=120)
                back = gr.Button("Reset", elem_id="ls-recommended", min_width=70, size="sm")
            plan = sentence()
            start = gr.Button("Start training", variant="primary", elem_id="ls-start-training")
            drawn, fields = _fields()
            part("formhelp", classes="ls-formhelp", elem_id="ls-formhelp-train")
    _wire(_Handlers(studio, drawn), steps, current, said, (preset, back, start, plan), fields)


def _fields() -> tuple[list[SettingInfo], list[Any]]:
    """All fields in order of the page, with what they stand for."""
    simple = form.infos(TrainConfig, SIMPLE)
    drawn, fields = list(simple), []
    with gr.Row(elem_classes="ls-form-grid"):
        fields += [form.field(info) for info in simple]
    for section, title in SECTIONS.items():
        rest = [info for info in describe(TrainConfig) if info.section == section and info.name not in ELSEWHERE]
        with gr.Accordion(title, open=False, elem_classes="ls-accordion", elem_id=f"ls-advanced-{section}"):
            fields += [form.field(info) for info in rest]
        drawn += rest
    return drawn, fields


@dataclass(frozen=True)
class _Handlers:
    """What the form's events do. Each returns updates for `preset`, the fields and the plan, as far as it needs them,
    and a message last."""

    studio: Studio
    drawn: list[SettingInfo]

    def navigate(self, event: gr.EventData) -> Any:
        """Preset, fields, plan, message: the settings of the project that is opened."""
        where = event._data or {}
        project = str(where.get("project") or "")
        if where.get("step") != "training" or not project:
            return [gr.skip()] * (len(self.drawn) + 3)
        opened = self.studio.open(project)
        named = [(found.title, found.name) for found in presets.all_presets(self.studio.root)]
        config = training.current(opened)
        choice = gr.update(choices=[*FIRST, *named], value=_chosen(opened, config))
        return [choice, *self._show(project, config), gr.skip()]

    def take_preset(self, project: str, name: str | None) -> Any:
        """Fields, plan, message: the named settings."""
        opened = self.studio.open(project or "")
        if name == RECOMMENDED:
            return [*self._show(project, training.back_to_recommended(opened)), message(BACK)]
        if not name or name == OWN:
            return [gr.skip()] * (len(self.drawn) + 2)
        config = training.with_preset(opened, name)
        training.save_current(opened, config)
        text = presets.load(name, self.studio.root).description
        return [*self._show(project, config), message("Preset taken over", text)]

    def reset(self, project: str) -> Any:
        """Preset, fields, plan, message: the recommendation again."""
        config = training.back_to_recommended(self.studio.open(project or ""))
        return [RECOMMENDED, *self._show(project, config), message(BACK)]

    def edit(self, project: str, *given: Any) -> Any:
        """Plan, preset, dependent fields, message: keep what was typed, or say what is wrong with it."""
        shown = [gr.update(visible=on) for on in self._dependents(list(given))]
        if not project:
            return [gr.skip(), gr.skip(), *shown, gr.skip()]
        opened = self.studio.open(project)
        before = training.current(opened)
        try:
            config = form.read(before, self.drawn, given)
        except SettingsError as error:
            return [_problems(error), gr.skip(), *shown, gr.skip()]
        if config == before:
            return [_plan(self.studio, project, config), gr.skip(), *shown, gr.skip()]
        training.save_current(opened, config)
        return [_plan(self.studio, project, config), _chosen(opened, config), *shown, gr.skip()]

    def start(self, project: str, *given: Any) -> str:
        """A message: the run begins with what stands in the form."""
        if not project:
            raise UserError("No project is open.", "Open one on the left.")
        opened = self.studio.open(project)
        for run in training.runs(opened, self.studio.jobs):
            if run.state not in ENDED:
                raise UserError(f"{run.id} is still {run.state}.", "Wait for its end, or stop it first.")
        config = form.read(training.current(opened), self.drawn, given)
        training.save_current(opened, config)
        job = training.start(opened, self.studio.jobs, config)
        return message(f"{job.title} begins", project=project, step="training")

    def _dependents(self, values: list[Any]) -> list[bool]:
        """Whether each field counts that hangs on another one, in their order on the page."""
        shown = form.visible(self.drawn, values)
        return [on for info, on in zip(self.drawn, shown, strict=True) if info.when]

    def _show(self, project: str, config: TrainConfig) -> list[Any]:
        values = form.values(config, self.drawn)
        fields = [
            gr.update(value=value, visible=on) if info.when else value
            for info, value, on in zip(self.drawn, values, form.visible(self.drawn, values), strict=True)
        ]
        return [*fields, _plan(self.studio, project, config)]


def _chosen(opened: Project, config: TrainConfig) -> str:
    return RECOMMENDED if config == training.recommended(opened) else OWN


def _wire(
    handlers: _Handlers,
    steps: gr.HTML,
    current: gr.Textbox,
    said: gr.HTML,
    head: tuple[gr.Dropdown, gr.Button, gr.Button, gr.HTML],
    fields: list[Any],
) -> None:
    """Which event calls which handler, and what it changes on the page."""
    preset, back, start, plan = head
    count, shown = len(fields), [*fields, plan, said]
    hanging = [component for info, component in zip(handlers.drawn, fields, strict=True) if info.when]
    steps.navigate(told(handlers.navigate, count + 3), None, [preset, *shown], **LISTENERS)
    preset.input(told(handlers.take_preset, count + 2), [current, preset], shown, **LISTENERS)
    back.click(told(handlers.reset, count + 3), current, [preset, *shown], **LISTENERS)
    for component in fields:
        event = component.blur if isinstance(component, (gr.Textbox, gr.Number)) else component.input
        event(told(handlers.edit, 3 + len(hanging)), [current, *fields], [plan, preset, *hanging, said], **EDITS)
    start.click(told(handlers.start, 1), [current, *fields], said, **LISTENERS)


def _plan(studio: Studio, project: str, config: TrainConfig) -> str:
    """How long it will be, the learning rate over the steps, and what stands against starting."""
    opened = studio.open(project)
    found = training.step_plan(opened, config)
    notes = "".join(
        f'<div class="ls-note {escape(check.level)}"><span>{escape(check.text)} {escape(check.remedy)}</span></div>'
        for check in training.checks(opened, config)
    )
    return f'<div class="ls-steps-plan"><p>{escape(found.sentence)}</p>{_curve(config, found.steps)}{notes}</div>'


def _problems(error: SettingsError) -> str:
    rows = "".join(f'<div class="ls-note bad"><span>{escape(problem)}</span></div>' for problem in error.problems)
    return f'<div class="ls-steps-plan">{rows}</div>'


def _curve(config: TrainConfig, steps: int) -> str:
    """The learning rate as a small picture; made of numbers only."""
    if steps < 2:
        return ""
    count = min(steps, 140)
    at = [1 + round(index * (steps - 1) / (count - 1)) for index in range(count)]
    rates = [learning_rate(step, steps, config.schedule) for step in at]
    points = " ".join(
        f"{300 * (step - 1) / (steps - 1):.1f},{37 - 33 * rate:.1f}" for step, rate in zip(at, rates, strict=True)
    )
    label = f"Learning rate: {config.schedule.kind.replace('_', ' ')}, at most {form.number(config.optimizer.unet_lr)}"
    shape = 'viewBox="0 0 300 40" preserveAspectRatio="none" role="img"'
    return (
        f'<svg class="ls-curve" {shape} aria-label="{escape(label)}">'
        f'<polyline points="{points}"/></svg><div class="ls-muted ls-curve-text">{escape(label)}</div>'
    )
