"""Testing: checkpoints beside the base, measures and a recommendation in words, and the export."""

from html import escape
from typing import Any, Literal

from lora_studio.core.errors import UserError
from lora_studio.core.settings import SettingInfo, SettingsError
from lora_studio.steps import testing, training
from lora_studio.steps.testing import TestConfig
from lora_studio.ui import form
from lora_studio.ui.components.part import heading, part, sentence
from lora_studio.ui.components.say import message, told
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio

SIMPLE = ("strengths", "learn_prompts", "bleed_prompts", "seeds")
LABELS = {
    "strengths": "Strengths",
    "learn_prompts": "Prompts that should show it",
    "bleed_prompts": "Prompts that must not change",
    "seeds": "Seeds",
}
ADVANCED = ("size", "num_steps", "guidance", "sampler")
LISTENERS: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's script calls."""

    def tests(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        jobs = testing.tests(opened, studio.jobs)
        return {
            "tests": [{"id": job.id, "state": job.state, "created": job.created} for job in jobs],
            "checkpoints": training.checkpoints(opened),
            "exports": [
                {"name": path.name, "size": path.stat().st_size}
                for path in sorted(opened.folder.glob("exports/*.safetensors"), key=lambda path: -path.stat().st_mtime)
            ],
            "folder": str(opened.folder / "exports"),
        }

    def view(project: str, test: str) -> dict[str, Any]:
        return testing.view(studio.open(project), studio.jobs, test)

    def stop(project: str, test: str) -> None:
        studio.jobs.command(studio.open(project).job_folder("tests", test), "stop")

    def resume(project: str, test: str) -> str:
        return testing.resume(studio.open(project), studio.jobs, test).id

    def export(project: str, checkpoint: str, format: Literal["kohya", "diffusers"]) -> dict[str, Any]:
        path = testing.export(studio.open(project), checkpoint, None, format)
        return {"name": path.name, "path": str(path), "size": path.stat().st_size}

    return {
        "testing.tests": tests,
        "testing.view": view,
        "testing.stop": stop,
        "testing.resume": resume,
        "testing.export": export,
    }


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab."""
    simple, advanced = form.infos(TestConfig, SIMPLE), form.infos(TestConfig, ADVANCED)
    with gr.Row(elem_classes="ls-split ls-test"):
        part("testing", classes="ls-whole")
        with gr.Column(elem_classes="ls-inspector ls-form", elem_id="ls-test-form"):
            part("export")
            heading("New test")
            estimate = sentence()
            start = gr.Button("Start the test", variant="primary", elem_id="ls-start-test")
            chosen = gr.Dropdown(
                [],
                multiselect=True,
                label="Checkpoints",
                elem_id="ls-set-checkpoints",
                info="Saved LoRA files to compare; the base stands beside them.",
            )
            fields = [form.field(info, label=LABELS[info.name]) for info in simple]
            with gr.Accordion("Advanced", open=False, elem_classes="ls-accordion"):
                fields += [form.field(info) for info in advanced]
            part("formhelp", classes="ls-formhelp", elem_id="ls-formhelp-test")
    _wire(studio, steps, current, said, chosen, fields, [*simple, *advanced], estimate, start)


def _wire(
    studio: Studio,
    steps: gr.HTML,
    current: gr.Textbox,
    said: gr.HTML,
    chosen: gr.Dropdown,
    fields: list[Any],
    drawn: list[SettingInfo],
    estimate: gr.HTML,
    start: gr.Button,
) -> None:
    def on_navigate(event: gr.EventData) -> Any:
        where = event._data or {}
        if where.get("step") != "testing" or not where.get("project"):
            return [gr.skip()] * (len(fields) + 3)
        opened = studio.open(str(where["project"]))
        config = testing.default_config(opened)
        choices = [(found["name"], found["file"]) for found in reversed(training.checkpoints(opened))]
        picked = gr.update(choices=choices, value=list(config.checkpoints))
        return [picked, *form.values(config, drawn), _estimate(config), gr.skip()]

    def read(project: str, files: list[str] | None, given: tuple[Any, ...]) -> TestConfig:
        base = testing.default_config(studio.open(project or ""))
        return form.read(base.with_changes({"checkpoints": list(files or [])}), drawn, given)

    def on_edit(project: str, files: list[str] | None, *given: Any) -> Any:
        if not project:
            return gr.skip(), gr.skip()
        try:
            return _estimate(read(project, files, given)), gr.skip()
        except SettingsError as error:
            rows = "".join(
                f'<div class="ls-note bad"><span>{escape(problem)}</span></div>' for problem in error.problems
            )
            return f'<div class="ls-steps-plan">{rows}</div>', gr.skip()

    def on_start(project: str, files: list[str] | None, *given: Any) -> str:
        if not project:
            raise UserError("No project is open.", "Open one on the left.")
        job = testing.start(studio.open(project), studio.jobs, read(project, files, given))
        return message(f"{job.title} begins", project=project, step="testing")

    steps.navigate(told(on_navigate, len(fields) + 3), None, [chosen, *fields, estimate, said], **LISTENERS)
    inputs = [current, chosen, *fields]
    chosen.change(told(on_edit, 2), inputs, [estimate, said], trigger_mode="always_last", **LISTENERS)
    for component in fields:
        event = component.blur if isinstance(component, (gr.Textbox, gr.Number)) else component.input
        event(told(on_edit, 2), inputs, [estimate, said], trigger_mode="always_last", **LISTENERS)
    start.click(told(on_start, 1), inputs, said, **LISTENERS)


def _estimate(config: TestConfig) -> str:
    """How many pictures it will be, and the sum."""
    prompts, seeds = len(config.learn_prompts) + len(config.bleed_prompts), len(config.seeds)
    columns = 1 + len(config.checkpoints) * len(config.strengths)
    total = len(testing.cells(config))
    text = (
        f"{prompts} prompts × {seeds} seed{'s' if seeds != 1 else ''} × {columns} columns (the base and "
        f"{len(config.checkpoints)} × {len(config.strengths)}) = {total} pictures of {config.size} px, "
        f"{config.num_steps} steps each."
    )
    return f'<div class="ls-steps-plan"><p>{escape(text)}</p></div>'
