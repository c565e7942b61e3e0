"""The six steps without a browser: `lora-studio new`, `gather`, `curate`, `tag`, `train`, `test`, `export`, `status`,
`detect`, and `studio` for the browser.

Answers go to stdout, everything else to stderr: with `--json` stdout holds one JSON document. The exit code is 0 only
on success, 1 for an error, 2 for words that were not understood, 130 when stopped with Ctrl-C.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lora_studio import __version__, cli_captions, cli_curate, cli_gather, cli_keys, cli_seen, cli_tag, cli_words
from lora_studio.cli_common import Changes, Json, Named, Projects, Stopped, answer, changes, open_project, root_of
from lora_studio.core.errors import UserError
from lora_studio.terminal import Bar, say, watch

PORT = 7860
MACHINES = (
    "torchrun --nnodes MACHINES --node-rank NUMBER --nproc-per-node GPUS --master-addr FIRST --master-port 29500 "
    '-m lora_studio.core.jobs "{}"'
)
"""What starts a prepared run on one of several machines; docs/several-gpus.md explains its words."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)


# The base of all errors in the words of a command; typer has it from click, or from its own copy of click.
_Misunderstood: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main() -> int:
    """Run the command of `sys.argv`; returns the exit code."""
    words = sys.argv[1:]
    as_json = "--json" in words
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(words, prog_name="lora-studio", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Stopped as stop:
        answer(stop.answer, as_json)
        say(str(stop))
        return 130
    except (KeyboardInterrupt, typer.Abort):
        say("Stopped.")
        return 130
    except _Misunderstood as error:
        context = getattr(error, "ctx", None)
        return _fail(
            error.format_message(), f"See: {context.command_path if context else 'lora-studio'} --help", as_json, 2
        )
    except UserError as error:
        return _fail(error.message, error.remedy, as_json)
    except ValueError as error:
        if not hasattr(error, "problems"):  # a SettingsError, told so without importing pydantic for `--version`
            raise
        return _fail("\n".join(error.problems), "", as_json)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _fail(message: str, remedy: str, as_json: bool, code: int = 1) -> int:
    if as_json:
        print(json.dumps({"error": message, "remedy": remedy}, ensure_ascii=False))
    say(f"Error: {message}" + (f" {remedy}" if remedy else ""))
    return code


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    projects: Projects = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """The six steps from pictures to a tested LoRA. Without a command the studio opens in the browser."""
    if version:
        print(f"lora-studio {__version__}")
        raise typer.Exit
    if projects:
        os.environ["LORA_STUDIO_PROJECTS"] = str(projects)
    if context.invoked_subcommand is None:
        studio(projects)


# --- the six steps ----------------------------------------------------------------------------------------------------


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the project.")] = "",
    kind: Annotated[
        Literal["character", "style", "concept"], typer.Option(help="What the LoRA is to be.")
    ] = "character",
    trigger: Annotated[str, typer.Option(help="The word that will call it.")] = "",
    base: Annotated[str, typer.Option(help="starter, a model file or folder, or a hub name.")] = "starter",
    sample: Annotated[str, typer.Option(help="Begin from a sample: character, style or concept.")] = "",
    fetch: Annotated[bool, typer.Option(help="Fetch a base named by a hub name now, or else with the run.")] = True,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """1. Conception: begin a project."""
    from lora_studio.core.project import Plan
    from lora_studio.steps import conception

    if sample:
        plan = conception.sample(sample).plan
        plan = Plan.load(
            {**plan.to_dict(), "name": name or plan.name, "trigger": trigger or plan.trigger, "base": base}
        )
    else:
        plan = Plan.load({"name": name, "kind": kind, "trigger": trigger, "base": base})
    if fetch:
        _fetch(plan.base)
    project = conception.create(root_of(projects), plan)
    if not fetch and (text := conception.unfetched(plan.base)):
        say(text)
    data = {"project": project.slug, "folder": str(project.folder), "plan": project.plan.to_dict()}
    pictures = conception.sample_pictures(project) if sample else None
    if pictures:
        data["pictures"] = str(pictures)
    step = f'lora-studio gather {project.slug} "{pictures or "PICTURES"}"'
    answer(data, as_json, f"{project.slug} begun in {project.folder}\nNext: {step}")


def _fetch(base: str) -> None:
    """Fetch the base from the hub with a bar, where it is named so and not here yet."""
    from lora_studio.steps import conception
    from lora_studio.terminal import show

    bar = Bar()
    try:
        conception.fetch(base, lambda event: show(json.loads(event.to_json()), bar))
    except KeyboardInterrupt:
        bar.end()
        say("Stopped. What has arrived is kept: the same command goes on from there.")
        os._exit(130)  # an ordinary exit would wait for the hub's client to end its files
    bar.end()


app.command()(cli_gather.gather)
app.command()(cli_keys.keys)
app.command()(cli_curate.curate)
app.command()(cli_tag.tag)
app.add_typer(cli_captions.app, name="captions")
app.add_typer(cli_words.app, name="words")
app.add_typer(cli_seen.app, name="seen")


@app.command()
def train(
    project: Named,
    preset: Annotated[str, typer.Option(help="A named preset or a .toml file; else the recommendation.")] = "",
    set_: Changes = None,
    resume: Annotated[str, typer.Option(metavar="RUN", help="Go on with this run; `last` for the newest.")] = "",
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only write the run's folder, to start it yourself on several machines.")
    ] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """5. Training. Ctrl-C stops, keeps what is done, and `--resume last` goes on from there."""
    from lora_studio.core.jobs import Jobs
    from lora_studio.steps import training

    opened = open_project(projects, project)
    jobs = Jobs(opened.root)
    if resume:
        if preset:
            raise UserError("A resumed run keeps its preset.", "Leave out --preset, or start a new run.")
        job = training.resume(opened, jobs, _run(opened, jobs, resume), changes(set_), prepare)
    else:
        config = training.with_preset(opened, preset) if preset else training.current(opened)
        config = config.with_changes(changes(set_))
        for check in training.checks(opened, config):
            if check.level == "warn":
                say(f"{check.text} {check.remedy}")
        if opened.used_images():
            say(training.step_plan(opened, config).sentence)
        job = training.start(opened, jobs, config, prepare)
    if prepare:
        data = {"run": job.id, "folder": str(job.folder), "command": MACHINES.format(job.folder)}
        return answer(data, as_json, f"{job.id} is ready. Start it on each machine:\n{data['command']}")
    job = watch(jobs, job)
    data = _run_answer(opened, jobs, job)
    if job.state == "stopped":
        raise Stopped(
            data, f"Stopped at step {data['step']} of {data['total']}. Go on with: {_resume_words(opened, job)}"
        )
    text = f"{data['run']}: {data['step']} steps, {len(data['checkpoints'])} LoRA files in {data['folder']}/checkpoints"
    answer(data, as_json, f"{text}\n{data['verdict'].get('headline', '')}".strip())


def _run(project: Any, jobs: Any, name: str) -> str:
    from lora_studio.steps import training

    if name != "last":
        return name
    runs = training.runs(project, jobs)
    if not runs:
        raise UserError(f"{project.slug} has no run yet.", f"Start one: lora-studio train {project.slug}")
    return runs[0].id


def _resume_words(project: Any, job: Any) -> str:
    return f"lora-studio train {project.slug} --resume {job.id}"


def _run_answer(project: Any, jobs: Any, job: Any) -> dict[str, Any]:
    from lora_studio.steps import training

    view = training.view(project, jobs, job.id)
    keep = ("run", "state", "step", "total", "epoch", "loss", "verdict")
    paths = [str(job.folder / checkpoint["path"]) for checkpoint in view["checkpoints"]]
    seconds = round(job.ended - job.started, 1)
    return {**{key: view[key] for key in keep}, "checkpoints": paths, "seconds": seconds, "folder": str(job.folder)}


@app.command("test")
def examine(
    project: Named,
    set_: Changes = None,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """6. Testing: pictures of the checkpoints beside the base's, how much was learned and how much bleeds."""
    from lora_studio.core.jobs import Jobs
    from lora_studio.steps import testing

    opened = open_project(projects, project)
    jobs = Jobs(opened.root)
    config = testing.default_config(opened).with_changes(changes(set_))
    job = watch(jobs, testing.start(opened, jobs, config))
    view = testing.view(opened, jobs, job.id)
    sheet = str(job.folder / view["sheet"]) if view["sheet"] else None
    data = {
        "test": job.id,
        "state": job.state,
        "folder": str(job.folder),
        "sheet": sheet,
        "scorecard": view["scorecard"],
    }
    if job.state == "stopped":
        raise Stopped(data, "Stopped; the pictures made so far are kept.")
    answer(data, as_json, f"{_recommendation(view['scorecard'])}\nPictures: {sheet}")


def _recommendation(card: dict[str, Any] | None) -> str:
    choice = (card or {}).get("recommendation") or {}
    if not choice.get("checkpoint"):
        return "No checkpoint stands out."
    name = Path(choice["checkpoint"]).stem
    return "\n".join([f"Recommended: {name} at strength {choice['strength']}", *map(str, choice.get("reasons", []))])


@app.command()
def export(
    project: Named,
    out: Annotated[Path | None, typer.Option(help="Where the file goes (.safetensors).")] = None,
    format_: Annotated[Literal["kohya", "diffusers"], typer.Option("--format", help="Layout of the file.")] = "kohya",
    checkpoint: Annotated[str, typer.Option(help="Which LoRA file; else the recommended one.")] = "",
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Write the LoRA where other programs find it."""
    from lora_studio.core.jobs import Jobs
    from lora_studio.steps import testing

    opened = open_project(projects, project)
    chosen, why = (checkpoint, "chosen") if checkpoint else testing.best_checkpoint(opened, Jobs(opened.root))
    path = testing.export(opened, chosen, out.expanduser().resolve() if out else None, format_)
    data = {"file": str(path), "bytes": path.stat().st_size, "format": format_, "checkpoint": chosen, "why": why}
    answer(data, as_json, f"{path} ({path.stat().st_size / 2**20:.1f} MB, {Path(chosen).stem}: {why})")


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command()
def status(
    project: Annotated[str, typer.Argument(metavar="[PROJECT]", help="Leave it out to list all.")] = "",
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Where a project stands, or all of them."""
    from lora_studio.core.project import Project

    root = root_of(projects)
    if project:
        data = _status(Project.open(root, project))
        runs = "".join(
            f"\n  {run['id']}: {run['state']}{' - ' + run['error'] if run['error'] else ''}" for run in data["jobs"]
        )
        return answer(data, as_json, _line(data) + runs)
    every = [_status(found) for found in Project.all(root)]
    text = "\n".join(map(_line, every)) or f"No projects in {root}. Begin one: lora-studio new NAME --trigger WORD"
    answer({"root": str(root), "projects": every}, as_json, text)


def _status(project: Any) -> dict[str, Any]:
    from lora_studio.core.jobs import Jobs

    plan, images = project.plan, project.images()
    used = [image for image in images if image.used]
    jobs = [
        {"id": job.id, "title": job.title, "state": job.state, "error": job.error, "remedy": job.remedy}
        for job in Jobs(project.root).all(project.slug)
    ]
    return {
        "project": project.slug,
        "folder": str(project.folder),
        "kind": plan.kind,
        "trigger": plan.trigger,
        "base": plan.base,
        "pictures": len(images),
        "used": len(used),
        "captioned": sum(bool(image.caption) for image in used),
        "checkpoints": len(list(project.folder.glob("runs/*/checkpoints/[!.]*.safetensors"))),
        "tests": len(list(project.folder.glob("tests/*/scorecard.json"))),
        "exports": len(list(project.folder.glob("exports/[!.]*.safetensors"))),
        "jobs": jobs,
    }


def _line(data: dict[str, Any]) -> str:
    counts = f"{data['used']} of {data['pictures']} pictures in use, {data['captioned']} captioned"
    made = f"{data['checkpoints']} checkpoints, {data['tests']} tests"
    return f"{data['project']} ({data['kind']}, trigger {data['trigger'] or 'none'}): {counts}, {made}"


@app.command()
def detect(
    file: Annotated[str, typer.Argument(help="A model file or folder, starter, or the hub name of a fetched model.")],
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Say what a model file or folder is, from its content alone. Nothing in it is run."""
    from lora_studio.core import paths
    from lora_studio.engine import detect as engine_detect
    from lora_studio.engine import hub

    path = Path(paths.resolve_base(file)).expanduser()
    if not path.exists():
        fetched = hub.on_disk(file)
        if fetched is None:
            raise UserError(f"{file} does not exist.", "Check the path; a model on the hub must have been fetched.")
        path = fetched
    found = engine_detect.detect(path)
    answer(asdict(found), as_json, _facts(found))
    if found.problem:
        say(f"Error: {path.name}: {found.problem}")
        raise typer.Exit(1)


def _facts(found: Any) -> str:
    """What was found, a line each; nothing for what does not apply."""
    rows = {
        "kind": " ".join(filter(None, (found.kind, found.lora_kind and f"({found.lora_kind})"))),
        "family": "" if found.family == "unknown" else found.family,
        "rank": str(found.rank or ""),
        "predicts": found.prediction,
        "parts": ", ".join(found.parts),
    }
    return "\n".join(filter(None, [found.detail, *(f"  {name:9}{text}" for name, text in rows.items() if text)]))


# --- the browser ------------------------------------------------------------------------------------------------------


@app.command()
def studio(
    projects: Projects = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The next free one is taken when it is in use.")] = PORT,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
) -> None:
    """Open the studio in the browser (also: `serve`). A second start shows the studio that is open already."""
    root, address = root_of(projects), f"http://127.0.0.1:{port}/"
    if _is_open(address, root):
        say(f"The studio is open already at {address}")
        if not no_browser:
            import webbrowser

            webbrowser.open(address)
        return
    from lora_studio.ui import server

    server.serve(root, port=port, browser=not no_browser)


def _is_open(address: str, root: Path) -> bool:
    """Whether a studio with the same projects answers there."""
    import urllib.request  # slow to import, and only needed here

    try:
        with urllib.request.urlopen(f"{address}api/about", timeout=1) as reply:
            about = json.load(reply)
    except (OSError, ValueError):
        return False
    return about.get("name") == "lora-studio" and about.get("projects") == str(root)


app.command("serve", hidden=True)(studio)


@app.command()
def demo(
    only: Annotated[list[str] | None, typer.Option(help="character, style or concept; may be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps only, to see that everything works.")] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """All six steps on the three sample projects, without a browser, and a short report."""
    from lora_studio import demo as showcase

    report = showcase.run(projects.expanduser().resolve() if projects else None, only or [], quick, watch, say)
    answer(report, as_json, showcase.as_text(report))
