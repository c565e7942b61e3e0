"""`lora-studio tag`: the pictures described by one tagger or several."""

from typing import Annotated, Any, Literal

import typer

from lora_studio.cli_common import Changes, Json, Named, Projects, Stopped, answer, changes, open_project
from lora_studio.terminal import say, watch

SHOWN = 5
"""Changes that `--dry-run` shows to people; with `--json` come all."""


def tag(
    project: Named,
    model: Annotated[
        list[str] | None,
        typer.Option(help="starter, a folder, owner/model of the hub, or ARCH:CHECKPOINT; repeat it for several."),
    ] = None,
    mode: Annotated[
        Literal["empty", "append", "replace", "union"],
        typer.Option(help="Fill empty captions only, add behind, replace all, or put the tagger's words first."),
    ] = "append",
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="How sure a tag must be; 0 takes the best level of each.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What a model that writes sentences is asked.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change no caption.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last tagging, which was stopped.")] = False,
    set_: Changes = None,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """4. Tagging: describe the kept pictures, the trigger word first. Ctrl-C stops and keeps what is done."""
    from lora_studio.core.errors import UserError
    from lora_studio.core.jobs import Jobs
    from lora_studio.steps import tagging

    opened = open_project(projects, project)
    jobs = Jobs(opened.root)
    wanted: dict[str, Any] = dict(changes(set_))
    wanted |= {"models": model} if model else {}
    wanted |= {"threshold": threshold} if threshold is not None else {}
    wanted |= {"prompt": prompt} if prompt else {}
    if resume and wanted:
        raise UserError("A resumed tagging keeps its settings.", "Leave out --resume, or the other settings.")
    if resume:
        job = tagging.resume(opened, jobs)
    else:
        job = tagging.start(opened, jobs, tagging.recommended(opened).with_changes(wanted))
    job = watch(jobs, job)
    if job.state == "stopped":
        done = tagging.state(opened, jobs)
        data = {"job": job.id, "tagged": done["total"] - done["left"], "total": done["total"], "written": 0}
        words = f"lora-studio tag {opened.slug} --resume"
        raise Stopped(data, f"Stopped: no caption was changed, the pictures done so far are kept. Go on with: {words}")
    if dry_run:
        names = {image.id: image.name for image in opened.images()}
        words = f"lora-studio tag {opened.slug} --resume --mode {mode}"
        return _show(tagging.merged(opened, job.folder, mode), names, words, as_json)
    result = tagging.apply(opened, job.folder, mode)
    for one in result["failed"]:
        say(f"Not tagged {one['file']}: {one['reason']}")
    text = f"{result['written']} captions written, {result['skipped']} left alone, {len(result['failed'])} failed."
    answer(result, as_json, text)


def _show(found: Any, names: dict[int, str], words: str, as_json: bool) -> None:
    page = found.diff.page(len(found.diff.changes))
    data = {"would_change": page["count"], "skipped": len(found.skipped), "failed": list(found.failed)}
    lines = [f"{page['count']} captions would change, {len(found.skipped)} stay, {len(found.failed)} have no answer."]
    for one in page["changes"][:SHOWN]:
        lines += [f"  {names[one['id']]}", f"  - {one['before']}", f"  + {one['after']}"]
    if len(page["changes"]) > SHOWN:
        lines.append(f"  ... and {len(page['changes']) - SHOWN} more")
    if page["changes"]:
        lines.append(f"Write them: {words}")
    answer({**data, "changes": page["changes"]}, as_json, "\n".join(lines))
