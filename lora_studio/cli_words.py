"""`lora-studio words`: what the captions say as a whole: the tags, what is wrong, what the LoRA will absorb."""

from typing import Annotated, Any

import typer

from lora_studio.cli_common import Json, Named, Projects, answer, open_project

app = typer.Typer(help=__doc__, no_args_is_help=True)
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Most = Annotated[int, typer.Option("--most", min=1, help="Lines shown at most.")]
BAR = 24
SHADES = " ·░▒▓█"


@app.command()
def table(project: Named, most: Most = 50, projects: Projects = None, as_json: Json = False) -> None:
    """Every tag with count, category, share, and how often the trigger stands beside it."""
    from lora_studio.steps import checking

    rows = checking.table(open_project(projects, project))
    lines = [f"{'pictures':>8} {'share':>5} {'trigger':>7}  tag (category)"]
    lines += [
        f"{row.count:>8} {_percent(row.share):>5} {_percent(row.with_trigger):>7}  {row.tag} ({row.category})"
        for row in rows[:most]
    ]
    lines += _more(len(rows) - most)
    answer({"tags": [vars(row) for row in rows]}, as_json, "\n".join(lines) if rows else "No captions yet.")


@app.command()
def check(
    project: Named,
    fix: Annotated[str, typer.Option(metavar="KIND", help="Mend all problems of this kind, in one undo.")] = "",
    dry_run: DryRun = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """What is wrong with the captions, and what mends it."""
    from lora_studio.steps import captioning, checking

    opened = open_project(projects, project)
    if fix:
        diff = checking.fix(opened, fix)
        if not dry_run and diff.changes:
            captioning.write(opened, diff)
        return _changed(diff, dry_run, as_json)
    problems = checking.lint(opened)
    lines = []
    for one in problems:
        lines.append(f"{one.level:5}{one.text} {one.remedy}")
        if one.fix:
            lines.append(f"     Mend: --fix {one.kind}")
    answer(
        {"problems": [one.to_dict() for one in problems]},
        as_json,
        "\n".join(lines) or "Nothing is wrong with the captions.",
    )


@app.command()
def absorbed(
    project: Named,
    prune: Annotated[bool, typer.Option("--prune", help="Take out all tags that are proposed for it.")] = False,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Take out this tag; may be repeated.")] = None,
    dry_run: DryRun = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """What the trigger will take into its meaning: tags to prune or keep, and tags that are learned as one thing."""
    from dataclasses import asdict

    from lora_studio.steps import caption_edits, checking

    opened = open_project(projects, project)
    found = checking.absorbed(opened)
    if prune or tag:
        gone = list(tag or ()) + [one.tag for one in found.proposals if prune and one.action == "prune"]
        if not gone:
            return answer({"tags": [], "count": 0}, as_json, "There is nothing to prune.")
        edit = caption_edits.CaptionEdit(do="prune", tags=tuple(gone))
        diff = caption_edits.preview(opened, None, edit)
        if not dry_run:
            checking.prune(opened, gone, diff.digest)
        return _changed(diff, dry_run, as_json)
    lines = [f"{one.action:5} {_percent(one.share):>5}  {one.tag}: {one.why}" for one in found.proposals]
    lines += [f"fused {_percent(one.share):>5}  {' + '.join(one.tags)}: {one.text}" for one in found.fused]
    if any(one.action == "prune" for one in found.proposals):
        lines.append("Take out all that is proposed: --prune")
    answer(asdict(found), as_json, "\n".join(lines) or "Nothing stands out yet: tag the pictures first.")


@app.command()
def charts(project: Named, most: Most = 20, projects: Projects = None, as_json: Json = False) -> None:
    """How often each tag stands, of what the captions speak, and which tags stand together."""
    from lora_studio.steps import checking

    data = checking.charts(open_project(projects, project))
    if not data["tags"]:
        return answer(data, as_json, "No captions yet.")
    total = max(1, data["pictures"])
    lines = [f"How often each tag stands ({data['pictures']} pictures):"]
    lines += [_bar(tag, count / total, str(count)) for tag, count, _ in data["tags"][:most]]
    lines += [*_more(len(data["tags"]) - most), "", "Of what the captions speak (pictures):"]
    lines += [_bar(one["category"], one["share"], ", ".join(one["examples"][:3])) for one in data["categories"]]
    answer(data, as_json, "\n".join([*lines, "", *_heat(data["together"], most)]))


def _heat(together: dict[str, Any], most: int) -> list[str]:
    names, counts = together["names"][:most], together["counts"]
    lines = ["Which tags stand together (the fuller, the oftener; of the rarer tag's pictures):"]
    for i, name in enumerate(names):
        shares = [counts[i][j] / max(1, min(counts[i][i], counts[j][j])) for j in range(len(names))]
        squares = "".join(SHADES[round(share * (len(SHADES) - 1))] * 2 for share in shares)
        lines.append(f"{name[:24]:>24} {squares}")
    return lines


def _bar(name: str, share: float, text: str) -> str:
    return f"{name[:24]:>24} {'█' * round(share * BAR):{BAR}} {_percent(share):>5}  {text}"


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _more(count: int) -> list[str]:
    return [f"{count} more (--most {count + 50})"] if count > 0 else []


def _changed(diff: Any, dry_run: bool, as_json: bool) -> None:
    page = diff.page(most=20)
    lines = [f"- {one['before']}\n+ {one['after']}" for one in page["changes"]] if dry_run else []
    word = "would change" if dry_run else "changed"
    lines.append(f"{page['count']} caption{'' if page['count'] == 1 else 's'} {word}: {page['label']}.")
    answer({**page, "dry_run": dry_run}, as_json, "\n".join(lines))
