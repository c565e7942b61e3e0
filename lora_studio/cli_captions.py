"""`lora-studio captions`: change captions of many pictures at once, and bring them in and out as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lora_studio.cli_common import Json, Named, Projects, answer, open_project
from lora_studio.core.errors import UserError

app = typer.Typer(help=__doc__, no_args_is_help=True)
Where = Annotated[
    str, typer.Option(metavar="FILTER", help="Only these pictures, e.g. 'smile and not hat' or 'count < 5'.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
SHOWN = 20
"""Changes that people are shown; with --json all."""


@app.command()
def edit(
    project: Named,
    do: Annotated[
        str,
        typer.Argument(
            help="add, remove, rename, merge, front, place, regex, text, sort, dedupe, underscores, aliases, "
            "implications, redundant, trigger, prune, clear or mojibake."
        ),
    ],
    tags: Annotated[list[str] | None, typer.Argument(help="The tags it is done with.")] = None,
    new: Annotated[str, typer.Option(help="What they become, for rename and merge.")] = "",
    at: Annotated[int, typer.Option(help="For place: 1 is the first behind the trigger, -1 the last.")] = 1,
    pattern: Annotated[str, typer.Option(help="What regex and text look for.")] = "",
    by: Annotated[str, typer.Option(help="What regex and text put there.")] = "",
    prose: Annotated[bool, typer.Option("--prose", help="Change the sentences, not the tags.")] = False,
    where: Where = "",
    dry_run: DryRun = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Change the captions of the pictures in use (prune: of all), or of those of --where. One undo takes it back."""
    from lora_studio.steps import caption_edits, captioning, filters

    opened = open_project(projects, project)
    words = {"do": do, "tags": tags or (), "new": new, "at": at, "pattern": pattern, "by": by}
    change = caption_edits.CaptionEdit.load({**words, "field": "prose" if prose else "caption"})
    ids = filters.find(opened, where) if where else None if do == "prune" else "used"
    diff = caption_edits.preview(opened, ids, change)
    if not dry_run:
        captioning.write(opened, diff)
    _answer(opened, diff, {}, dry_run, as_json)


@app.command()
def find(
    project: Named,
    where: Annotated[str, typer.Argument(metavar="FILTER", help="E.g. 'smile and not hat', 'untagged'.")] = "",
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """List pictures with their captions; without a filter all of them."""
    from lora_studio.steps import filters

    opened = open_project(projects, project)
    images = {image.id: image for image in opened.images()}
    found = [images[image_id] for image_id in filters.find(opened, where)]
    listed = [{"id": one.id, "file": one.name, "caption": one.caption, "prose": one.prose} for one in found]
    lines = []
    for one in found:
        lines.append(f"{one.id:>6}  {one.name}: {one.caption}")
        lines += [f"{'':8}{one.prose}"] if one.prose else []
    answer({"pictures": listed}, as_json, "\n".join([*lines, f"{len(found)} of {len(images)} pictures."]))


@app.command()
def export(
    project: Named,
    target: Annotated[Path, typer.Argument(help="A folder, or a file that ends in .zip.")],
    form: Annotated[
        Literal["txt", "caption", "kohya", "metadata.jsonl"],
        typer.Option(help="A file beside each picture, or one list for all."),
    ] = "txt",
    where: Where = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of others too; copies are kept in the project.")
    ] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Write the captions of the pictures in use as files for other programs; the folder is watched from then on."""
    from lora_studio.steps import filters, sidecars

    opened = open_project(projects, project)
    done = sidecars.export(opened, target, form, filters.find(opened, where) if where else None, overwrite)
    data = {"where": str(done.where), "written": done.written, "without_caption": done.empty, "kept": done.kept}
    lines = [f"{done.written} captions are in {done.where}."]
    lines += [f"{done.empty} pictures have no caption."] if done.empty else []
    lines += [
        f"Left as it is, for it is not of this project or was changed there: {name}" for name in done.kept[:SHOWN]
    ]
    lines += [f"and {len(done.kept) - SHOWN} more."] if len(done.kept) > SHOWN else []
    lines += ["See what was changed: captions watch. Replace them: --overwrite."] if done.kept else []
    lines += [f"Copies of what was replaced: {done.replaced}"] if done.replaced else []
    replaced = str(done.replaced) if done.replaced else None
    answer({**data, "replaced": replaced}, as_json, "\n".join(lines))


@app.command("import")
def import_(
    project: Named,
    source: Annotated[Path, typer.Argument(help="Folder or zip with .txt, .caption, kohya's JSON or metadata.jsonl.")],
    dry_run: DryRun = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Read captions from files, matched by the pictures' names, in any encoding. One undo takes it back."""
    from lora_studio.steps import captioning, sidecars

    opened = open_project(projects, project)
    reading = sidecars.read(opened, source)
    if not reading.found:
        raise UserError(
            f"No text in {source} belongs to a picture of {opened.slug}.",
            "A text belongs to the picture of the same name, e.g. a.txt or a.png.txt to a.png.",
        )
    if not dry_run:
        captioning.write(opened, reading)
    _answer(opened, reading, _left(reading), dry_run, as_json)


@app.command()
def watch(
    project: Named,
    folder: Annotated[Path | None, typer.Argument(help="One of the folders; without it all are shown.")] = None,
    take: Annotated[bool, typer.Option("--take", help="Take over what was changed there.")] = False,
    conflicts: Annotated[
        Literal["leave", "theirs", "ours"], typer.Option(help="Of captions changed on both sides, which counts.")
    ] = "leave",
    forget: Annotated[bool, typer.Option("--forget", help="Watch this folder no longer.")] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """What other programs changed in the folders that captions were exported to."""
    from lora_studio.steps import watching

    opened = open_project(projects, project)
    if (take or forget) and folder is None:
        raise UserError("Which folder?", f"Name it: lora-studio captions watch {opened.slug} FOLDER --take")
    if folder is None:
        offers = watching.offers(opened)
        lines = [line for offer in offers for line in _offer_lines(opened, offer)]
        data = {"folders": [offer.page() for offer in offers]}
        return answer(data, as_json, "\n".join(lines) or "No captions were exported to a folder yet.")
    if forget:
        watching.forget(opened, folder)
        return answer({"forgotten": str(folder)}, as_json, f"{folder} is watched no longer.")
    offer = watching.offer(opened, folder)
    if not take:
        return answer(offer.page(len(offer.changes)), as_json, "\n".join(_offer_lines(opened, offer)))
    both = {one.id for one in offer.conflicts}
    theirs, ours = (both if conflicts == side else () for side in ("theirs", "ours"))
    ids = watching.take(opened, folder, offer.digest, theirs, ours)
    left = len(both) if conflicts == "leave" else 0
    lines = [f"{len(ids)} captions taken over from {folder}."]
    lines += [f"{left} changed on both sides are left: add --conflicts theirs or ours."] if left else []
    answer({"ids": ids, "conflicts_left": left}, as_json, "\n".join(lines))


@app.command()
def undo(
    project: Named,
    redo: Annotated[bool, typer.Option("--redo", help="Do again what was taken back.")] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """Take back the last edit of the project, whatever it was."""
    opened = open_project(projects, project)
    label = opened.redo() if redo else opened.undo()
    if label is None:
        raise UserError(f"There is nothing to {'do again' if redo else 'take back'}.", "No edit has been made yet.")
    answer({"redone" if redo else "undone": label}, as_json, f"{'Done again' if redo else 'Taken back'}: {label}")


def _answer(project: Any, diff: Any, left: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    """What changed, or would."""
    page = diff.page(len(diff.changes))
    lines = _change_lines(project, diff.changes)
    lines += [f"{name}: {reason}" for name, reason in getattr(diff, "problems", ())]
    lines += [f"{name}: belongs to no picture." for name in getattr(diff, "unmatched", ())[:SHOWN]]
    done = "would change" if dry_run else "changed"
    lines.append(f"{page['count']} captions {done}." + ("" if dry_run or not page["count"] else f" Undo: {diff.label}"))
    answer({**page, **left, "dry_run": dry_run}, as_json, "\n".join(lines))


def _left(reading: Any) -> dict[str, Any]:
    problems = [{"file": name, "reason": reason} for name, reason in reading.problems]
    return {"unmatched": reading.unmatched, "problems": problems}


def _offer_lines(project: Any, offer: Any) -> list[str]:
    if offer.missing:
        return [f"{offer.folder}: the folder is gone or not connected."]
    both = len(offer.conflicts)
    lines = [
        f"{offer.folder}: {len(offer.changes)} changed there, {offer.ahead} changed here, {both} of them on both sides."
    ]
    lines += _change_lines(project, offer.changes)
    if both:
        lines += ["On both sides (- here, + there):", *_change_lines(project, offer.conflicts)]
    return [*lines, *(f"{name}: is gone; its caption stays." for name in offer.gone[:SHOWN])]


def _change_lines(project: Any, changes: Sequence[Any]) -> list[str]:
    """Each change in a line or two: tags that go with -, tags that come with +."""
    from lora_studio.core import captions

    names = {image.id: image.name for image in project.images()} if changes else {}
    lines = []
    for one in changes[:SHOWN]:
        before, after = captions.split(one.before), captions.split(one.after)
        gone, come = [tag for tag in before if tag not in after], [tag for tag in after if tag not in before]
        if one.field == "prose" or not (gone or come):
            gone, come = [one.before], [one.after]
        marks = [*(f"-[{text}]" for text in gone if text), *(f"+[{text}]" for text in come if text)]
        lines.append(f"{one.id:>6}  {names[one.id]}: {' '.join(marks)}")
    return lines + ([f"        and {len(changes) - SHOWN} more."] if len(changes) > SHOWN else [])
