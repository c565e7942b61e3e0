"""`lora-studio gather`: pictures from files, sites, videos, other projects and data sets; where they are from."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lora_studio.cli_common import Json, Named, Projects, Stopped, answer, open_project
from lora_studio.core.errors import UserError
from lora_studio.terminal import Bar, say, stop_flag


def gather(
    project: Named,
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="[SOURCE]...", help="Pictures, folders, zips; videos with --video.")
    ] = None,
    urls: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Fetch the addresses in a file, one a line.")
    ] = None,
    booru: Annotated[
        str, typer.Option(metavar="SITE", help="Search a board: danbooru, gelbooru, safebooru, e621, moebooru.")
    ] = "",
    server: Annotated[str, typer.Option(metavar="URL", help="Another server that speaks the board's language.")] = "",
    tags: Annotated[str, typer.Option(help="What to search the board for, in its own words.")] = "",
    rating: Annotated[str, typer.Option(help="any, safe, questionable or explicit.")] = "",
    limit: Annotated[int | None, typer.Option(help="At most so many pictures of a board or data set.")] = None,
    user: Annotated[str, typer.Option(help="Your name on the board, where it asks for one.")] = "",
    video: Annotated[bool, typer.Option("--video", help="The sources are videos: take frames.")] = False,
    seconds: Annotated[float | None, typer.Option(help="At least so many seconds between two frames.")] = None,
    frames: Annotated[int | None, typer.Option(help="At most so many frames of each video.")] = None,
    from_project: Annotated[str, typer.Option(metavar="NAME", help="Take the pictures of another project.")] = "",
    dataset: Annotated[str, typer.Option(metavar="OWNER/NAME", help="A data set of the Hugging Face hub.")] = "",
    provenance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT", help="author=, licence= or consent= of all; without a source, of those here."
        ),
    ] = None,
    background: Annotated[str, typer.Option(metavar="#RRGGBB", help="What lies under transparent pictures.")] = "",
    quarantine: Annotated[bool, typer.Option("--quarantine", help="List the files that could not be taken.")] = False,
    credits_: Annotated[bool, typer.Option("--credits", help="Whom the pictures in use are from.")] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """2. Gathering: import pictures. Repeating it adds only what is new."""
    opened = open_project(projects, project)
    given = {
        "paths": [str(source) for source in sources or []],
        "urls": _lines(urls) if urls else None,
        "site": booru,
        "server": server,
        "tags": tags,
        "rating": rating,
        "limit": limit,
        "user": user,
        "seconds": seconds,
        "frames": frames,
        "project": from_project,
        "dataset": dataset,
    }
    if background:
        opened.set_background(background)
    kinds = {"urls": bool(urls), "booru": bool(booru), "project": bool(from_project), "hub": bool(dataset)}
    chosen = [kind for kind, wanted in kinds.items() if wanted]
    chosen += ["video"] if video else ["paths"] if sources else []
    if len(chosen) > 1:
        raise UserError("There is more than one kind of source.", "Take one after the other.")
    words = _words(provenance)
    if quarantine:
        _list_quarantine(opened, as_json)
    elif chosen:
        changes = {name: value for name, value in given.items() if value not in (None, "", [])}
        _import(opened, {"kind": chosen[0], **changes, **words}, as_json)
    elif words:
        _sign(opened, words, as_json)
    elif credits_:
        from lora_studio.steps import gathering

        rows = gathering.credits(opened)
        answer(
            {"credits": rows}, as_json, gathering.credits_text(opened).strip() or "Nothing is known of their origin."
        )
    elif background:
        answer({"background": background}, as_json, f"Transparent pictures now lie over {background}.")
    else:
        raise UserError("There is nothing to gather from.", f"lora-studio gather {opened.slug} FOLDER")


def _import(project: Any, settings: dict[str, Any], as_json: bool) -> None:
    from lora_studio.steps import gathering

    config = gathering.SourceConfig.load(settings)
    bar = Bar()
    with stop_flag() as should_stop:
        try:
            result = gathering.gather(project, config, bar.update, should_stop)
        finally:
            bar.end()
    refused = [{"file": one.file, "reason": one.reason} for one in result.refused]
    data = {"added": result.added, "already": result.already, "refused": refused}
    for one in refused:
        say(f"Refused {one['file']}: {one['reason']}")
    text = f"{result.added} added, {result.already} there already, {len(refused)} refused."
    if result.stopped:
        raise Stopped(data, f"Stopped: {text} Run the same command again to go on.")
    answer(data, as_json, text)
    if not result.added and not result.already:
        say("Error: no picture could be taken. Name a folder, a zip or files with pictures in them.")
        raise typer.Exit(1)


def _sign(project: Any, words: dict[str, str], as_json: bool) -> None:
    from lora_studio.steps import gathering

    ids = [image.id for image in project.images()]
    gathering.set_provenance(project, ids, **words)
    answer({"changed": len(ids), **words}, as_json, f"Written down for {len(ids)} pictures; `curate --undo` undoes it.")


def _list_quarantine(project: Any, as_json: bool) -> None:
    rows = project.quarantined()
    lines = [f"{row['name']} ({row['source']}): {row['reason']}" for row in rows]
    answer({"quarantine": rows}, as_json, "\n".join(lines) or "Every file could be taken.")


def _lines(file: Path) -> list[str]:
    from lora_studio.core.captions import decode_text

    try:
        return decode_text(file.expanduser().read_bytes()).splitlines()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}.", "Name a text file with one address a line."
        ) from error


def _words(provenance: list[str] | None) -> dict[str, str]:
    known = ("author", "licence", "consent")
    words = dict(word.partition("=")[::2] for word in provenance or [])
    wrong = [name for name in words if name not in known]
    if wrong or any("=" not in word for word in provenance or []):
        raise UserError(f"--provenance {(provenance or [''])[0]} is not understood.", f"Known: {'=, '.join(known)}=.")
    return words
