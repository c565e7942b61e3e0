"""Training: the settings with their advice on the right, the run as it goes on the left."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import ENDED
from lora_studio.core.project import Project
from lora_studio.core.settings import SettingInfo, SettingsError, describe
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.schedules import learning_rate
from lora_studio.steps import training
from lora_studio.ui import form
from lora_studio.ui.components.part import heard, part, sentence
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
    "adapter": "Adapter",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "data": "Pictures and captions",
    "objective": "Objective",
    "base": "Base model",
    "run": "Run",
    "sample": "Sample pictures",
}
SUMMARY = ("adapter.kind", "optimizer.kind", "schedule.kind", "objective.weighting", "base.model", "sample.sampler")
"""Settings that a closed section shows beside its title."""
FAMILIES = {"starter": "the starter", "sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
RECOMMENDED, OWN = "recommended", "own"
FIRST = [("Recommended", RECOMMENDED), ("Your own settings", OWN)]
BACK = "Back to the recommendation"
MOST_SAID = 8
"""Changes of a preset that its message names; the page marks them all."""
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

    def settings() -> list[dict[str, str]]:
        return [
            {"name": info.name, "title": form.title(info), "text": f"{info.doc} {_words(info)}", "when": _when(info)}
            for info in _drawn()
        ]

    return {
        "training.settings": settings,
        "training.runs": runs,
        "training.view": view,
        "training.command": command,
        "training.resume": resume,
    }


def _drawn() -> list[SettingInfo]:
    """All settings of the form, in order of the page."""
    rest = [info for info in describe(TrainConfig) if info.name not in ELSEWHERE]
    return [
        *form.infos(TrainConfig, SIMPLE),
        *(info for name in SECTIONS for info in form.together([info for info in rest if info.section == name])),
    ]


def _words(info: SettingInfo) -> str:
    return " ".join([info.name, *info.choices, *(form.label(choice) for choice in info.choices)])


def _when(info: SettingInfo) -> str:
    """Where a setting is that is not on the page now: `Kind of adapter is LoKr`."""
    if info.when is None:
        return ""
    on = form.infos(TrainConfig, (info.when[0],))[0]
    return f"{form.title(on)} is {' or '.join(form.label(value) for value in info.when[1])}"


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
            find = part("settings", events=["back"])
            facts = heard("facts")
            drawn, fields = _fields()
            part("formhelp", classes="ls-formhelp", elem_id="ls-formhelp-train")
    _wire(_Handlers(studio, drawn), steps, current, said, _Page(preset, back, start, plan, find, facts, fields))


def _fields() -> tuple[list[SettingInfo], list[Any]]:
    """All fields in order of the page, with what they stand for."""
    drawn = _drawn()
    with gr.Row(elem_classes="ls-form-grid"):
        fields = [form.field(info) for info in drawn if info.name in SIMPLE]
    for section, title in SECTIONS.items():
        with gr.Accordion(title, open=False, elem_classes="ls-accordion", elem_id=f"ls-advanced-{section}"):
            fields += [form.field(info) for info in drawn if info.section == section and info.name not in SIMPLE]
    return drawn, fields


@dataclass(frozen=True)
class _Page:
    """The components that events come from and go to."""

    preset: gr.Dropdown
    back: gr.Button
    start: gr.Button
    plan: gr.HTML
    find: gr.HTML
    facts: gr.HTML
    fields: list[Any]


@dataclass(frozen=True)
class _Handlers:
    """What the form's events do. Each returns updates for `preset`, the fields, the plan and the facts, as far as it
    needs them, and a message last."""

    studio: Studio
    drawn: list[SettingInfo]

    def navigate(self, event: gr.EventData) -> Any:
        """The project, preset, fields, plan, facts, message: the settings of the project that is opened. The project is
        among them so that no edit can come between seeing the fields and knowing whose they are."""
        where = event._data or {}
        project = str(where.get("project") or "")
        if where.get("step") != "training" or not project:
            return [gr.skip()] * (len(self.drawn) + 5)
        opened = self.studio.open(project)
        known = training.presets_for(opened)
        named = [(found.title if fits else f"{found.title} · other base", found.name) for found, fits in known]
        config = training.current(opened)
        choice = gr.update(choices=[*FIRST, *named], value=self._chosen(opened, config))
        return [project, choice, *self._show(opened, config), gr.skip()]

    def take_preset(self, project: str, name: str | None) -> Any:
        """Fields, plan, facts, message: the named settings, and what they changed."""
        opened = self.studio.open(project or "")
        if name == RECOMMENDED:
            return [*self._show(opened, training.back_to_recommended(opened)), message(BACK)]
        if not name or name == OWN:
            return [gr.skip()] * (len(self.drawn) + 3)
        before, config = training.current(opened), training.with_preset(opened, name)
        if config == before:  # the list tells a choice twice
            return [gr.skip()] * (len(self.drawn) + 3)
        training.save_current(opened, config)
        found, fits = next(known for known in training.presets_for(opened) if known[0].name == name)
        text = f"{found.description} {self._changes(before, config)}"
        if fits:
            told_of = message(f"{found.title}: taken over", text)
        else:
            made_for = FAMILIES.get(found.family, found.family)
            told_of = message(f"Taken over, but it is made for {made_for}, and your base is another.", text, "warn")
        return [*self._show(opened, config), told_of]

    def reset(self, project: str) -> Any:
        """Preset, fields, plan, facts, message: the recommendation again."""
        opened = self.studio.open(project or "")
        return [RECOMMENDED, *self._show(opened, training.back_to_recommended(opened)), message(BACK)]

    def edit(self, project: str, *given: Any) -> Any:
        """Plan, facts, preset, dependent fields, message: keep what was typed, or say what is wrong with it."""
        counts = form.visible(self.drawn, list(given))
        shown = [gr.update(visible=on) for info, on in zip(self.drawn, counts, strict=True) if info.when]
        if not project:
            return [gr.skip(), gr.skip(), gr.skip(), *shown, gr.skip()]
        return [*self._keep(self.studio.open(project), given), *shown, gr.skip()]

    def restore(self, event: gr.EventData, project: str, *given: Any) -> Any:
        """Plan, facts, preset, fields, message: one setting is what is recommended again, the others stay."""
        opened = self.studio.open(project or "")
        name = str((event._data or {}).get("name") or "")
        places = {info.name: place for place, info in enumerate(self.drawn)}
        if name not in places:
            raise UserError(f"There is no setting {name}.", "Reload the page.")
        values = list(given)
        values[places[name]] = form.values(training.recommended(opened), self.drawn)[places[name]]
        fields = [
            gr.update(visible=on, **({"value": values[place]} if place == places[name] else {}))
            for place, on in enumerate(form.visible(self.drawn, values))
        ]
        return [*self._keep(opened, tuple(values)), *fields, gr.skip()]

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

    def _keep(self, opened: Project, given: tuple[Any, ...]) -> list[Any]:
        """Plan, facts, preset after an edit."""
        before = training.current(opened)
        try:
            config = form.read(before, self.drawn, given)
        except SettingsError as error:
            names = [info.name for info in self.drawn]
            return [_problems(error, names), self._facts(opened, before, list(given), error.problems), gr.skip()]
        values = form.values(config, self.drawn)
        facts = self._facts(opened, config, values)
        if config == before:
            return [_plan(opened, config), facts, gr.skip()]
        training.save_current(opened, config)
        chosen = OWN if any("back" in fact for fact in json.loads(facts)["fields"].values()) else RECOMMENDED
        return [_plan(opened, config), facts, chosen]

    def _show(self, opened: Project, config: TrainConfig) -> list[Any]:
        """Fields, plan, facts."""
        values = form.values(config, self.drawn)
        fields = [
            gr.update(value=value, visible=on) if info.when else value
            for info, value, on in zip(self.drawn, values, form.visible(self.drawn, values), strict=True)
        ]
        return [*fields, _plan(opened, config), self._facts(opened, config, values)]

    def _differing(self, values: list[Any], others: list[Any]) -> list[int]:
        """Places of the fields that count and hold something else than `others`."""
        counts = form.visible(self.drawn, values)
        return [place for place, value in enumerate(values) if counts[place] and value != others[place]]

    def _changes(self, before: TrainConfig, after: TrainConfig) -> str:
        """`Changed: Rank 8 → 16, Kind of adapter LoRA → DoRA.`"""
        old, new = form.values(before, self.drawn), form.values(after, self.drawn)
        places = self._differing(new, old)
        said = [
            f"{form.title(info)} {form.spoken(info, old[place])} → {form.spoken(info, new[place])}"
            for place, info in enumerate(self.drawn)
            if place in places
        ]
        more = f" and {len(said) - MOST_SAID} more" if len(said) > MOST_SAID else ""
        return f"Changed: {', '.join(said[:MOST_SAID])}{more}." if said else "It changes nothing here."

    def _chosen(self, opened: Project, config: TrainConfig) -> str:
        """The name in the list that stands for these settings."""
        base = training.recommended(opened)
        values = form.values(config, self.drawn)
        if not self._differing(values, form.values(base, self.drawn)):
            return RECOMMENDED
        for preset, _ in training.presets_for(opened):
            with suppress(SettingsError):  # an old preset of the user's: told when it is taken
                over = form.values(training.preset_over(base, preset), self.drawn)
                if not self._differing(values, over):
                    return preset.name
        return OWN

    def _facts(self, opened: Project, config: TrainConfig, values: list[Any], problems: Sequence[str] = ()) -> str:
        """JSON for the page's script: what is to be marked at which field, and what closed sections say."""
        wanted = form.values(training.recommended(opened), self.drawn)
        fields: dict[str, dict[str, Any]] = {}
        for place in self._differing(values, wanted):
            info = self.drawn[place]
            fields[info.name] = {"back": form.spoken(info, wanted[place])}
        for name, note in training.strengths(config.adapter).items():
            fields.setdefault(name, {})["note"] = note
        for info in self.drawn:
            if any(_names(problem, info.name) for problem in problems):
                fields.setdefault(info.name, {})["bad"] = True
        data = config.to_dict()
        summary = {name.partition(".")[0]: form.label(form.dotted(data, name)) for name in SUMMARY}
        summary["base"] = Path(config.base.model).name
        return json.dumps({"project": opened.slug, "fields": fields, "sections": summary})


def _wire(handlers: _Handlers, steps: gr.HTML, current: gr.Textbox, said: gr.HTML, page: _Page) -> None:
    """Which event calls which handler, and what it changes on the page."""
    fields, count = page.fields, len(page.fields)
    shown, kept = [*fields, page.plan, page.facts, said], [page.plan, page.facts, page.preset]
    hanging = [component for info, component in zip(handlers.drawn, fields, strict=True) if info.when]
    steps.navigate(told(handlers.navigate, count + 5), None, [current, page.preset, *shown], **LISTENERS)
    page.preset.input(told(handlers.take_preset, count + 3), [current, page.preset], shown, **LISTENERS)
    page.back.click(told(handlers.reset, count + 4), current, [page.preset, *shown], **LISTENERS)
    page.find.back(told(handlers.restore, count + 4), [current, *fields], [*kept, *fields, said], **LISTENERS)
    typed = (gr.Textbox, gr.Number)
    edits = [component.blur if isinstance(component, typed) else component.input for component in fields]
    outputs = [*kept, *hanging, said]
    gr.on(
        edits, told(handlers.edit, 4 + len(hanging)), [current, *fields], outputs, **EDITS
    )  # one for all: 4 times less
    page.start.click(told(handlers.start, 1), [current, *fields], said, **LISTENERS)


def _plan(opened: Project, config: TrainConfig) -> str:
    """How long it will be, the learning rate over the steps, and what stands against starting."""
    found = training.step_plan(opened, config)
    notes = "".join(
        f'<div class="ls-note {escape(check.level)}"><span>{escape(check.text)} {escape(check.remedy)}</span></div>'
        for check in training.checks(opened, config)
    )
    return f'<div class="ls-steps-plan"><p>{escape(found.sentence)}</p>{_curve(config, found.steps)}{notes}</div>'


def _problems(error: SettingsError, known: Sequence[str]) -> str:
    """What is wrong, all of it; a click on a sentence shows the setting that it names."""
    rows = []
    for problem in error.problems:
        named = next((name for name in known if _names(problem, name)), "")
        rows.append(
            f'<div class="ls-note bad"><button type="button" class="ls-link" data-setting="{escape(named)}">'
            f"{escape(problem)}</button></div>"
        )
    return f'<div class="ls-steps-plan">{"".join(rows)}</div>'


def _names(problem: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.]*\w)", problem) is not None


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
    label = f"Learning rate: {form.label(config.schedule.kind)}, at most {form.number(config.optimizer.unet_lr)}"
    shape = 'viewBox="0 0 300 40" preserveAspectRatio="none" role="img"'
    return (
        f'<svg class="ls-curve" {shape} aria-label="{escape(label)}">'
        f'<polyline points="{points}"/></svg><div class="ls-muted ls-curve-text">{escape(label)}</div>'
    )
