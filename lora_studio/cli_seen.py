"""`lora-studio seen`: what the model reads of the captions: tokens, the trigger, captions as they are trained."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from lora_studio.cli_common import Json, Named, Projects, Stopped, answer, open_project
from lora_studio.core.errors import UserError
from lora_studio.terminal import watch

app = typer.Typer(help=__doc__)


@app.command("tokens")
def tokens_(
    project: Named,
    over: Annotated[bool, typer.Option("--over", help="Only captions that are cut off.")] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Tokens of each caption for each text encoder of the base, and where the long ones are cut."""
    from lora_studio.steps import tokens

    opened = open_project(projects, project)
    found = tokens.table(opened)
    shown = [one for one in found["captions"] if one["over"] or not over]
    lines = []
    for one in shown:
        numbers = " / ".join(str(count) for count in one["tokens"])
        lines.append(f"{one['id']:>6}  {numbers:>9}  {one['file']}")
        if one["over"]:
            lines.append(f"{'':>8}{one['over']} tokens are not read: … {one['lost'][:80]}")
    long = sum(bool(one["over"]) for one in found["captions"])
    lines.append(f"{len(found['captions'])} captions, {long} longer than data.max_tokens {found['limit']}.")
    answer({**found, "captions": shown}, as_json, "\n".join(lines))


@app.command()
def sample(
    project: Named,
    where: Annotated[str, typer.Option(metavar="FILTER", help="Only these pictures, e.g. 'id = 3'.")] = "",
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many captions.")] = 10,
    seed: Annotated[int | None, typer.Option(min=0, help="Another chance than the run's own (run.seed).")] = None,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Captions as training shows them: shuffled, thinned out, wildcards drawn, the trigger in front."""
    from lora_studio.steps import filters, seen

    opened = open_project(projects, project)
    found = seen.sample(opened, filters.find(opened, where) if where else None, count, seed)
    if not found:
        raise UserError("There is no picture to show.", "Gather some, or ask for others with --where.")
    lines = [f"{one['file']}, epoch {one['epoch']}: {one['text'] or '(no caption this time)'}" for one in found]
    answer({"samples": found}, as_json, "\n".join(lines))


@app.command()
def trigger(
    project: Named,
    word: Annotated[str | None, typer.Option(help="Another word than the project's trigger.")] = None,
    react: Annotated[
        bool, typer.Option("--react", help="Draw with the base and see what it does at the word.")
    ] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Is the trigger a good word: does the base split it, is it common, does the base react to it already?"""
    from lora_studio.steps import trigger as step

    opened = open_project(projects, project)
    found = step.check(opened, word)
    data: dict[str, Any] = asdict(found)
    lines = [f"{found.text} {found.remedy}".rstrip(), *(f"  {reason}" for reason in found.reasons)]
    if react:
        trial = _react(opened, found.word)
        data["reaction"] = asdict(trial.reaction)
        lines.append(f"{trial.reaction.text} {trial.reaction.remedy}".rstrip())
    answer(data, as_json, "\n".join(lines))


def _react(project: Any, word: str) -> Any:
    from lora_studio.core.jobs import Jobs
    from lora_studio.steps import trigger as step

    jobs = Jobs(project.root)
    if watch(jobs, step.react(project, jobs, word or None)).state == "stopped":
        raise Stopped({"reaction": None}, "Stopped: there are too few pictures to judge by.")
    return step.result(project, jobs)
