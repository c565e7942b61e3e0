"""Gathering: pictures from files, sites, videos and other projects into the project, each checked, none ending the
import; where they are from and whom to thank; how many there are and what to look for next."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Job, JobContext, Jobs
from lora_studio.core.progress import Note, Phase, Progress
from lora_studio.core.project import PROVENANCE, Image, Plan, Project
from lora_studio.judge import dataset
from lora_studio.judge.common import plural
from lora_studio.steps import curation, importing, looking
from lora_studio.steps.importing import Gathered, Line, Report
from lora_studio.steps.sources import local, projects
from lora_studio.steps.sources.candidate import Candidate, Refused
from lora_studio.steps.sources.config import SourceConfig

__all__ = [
    "Gathered",
    "Refused",
    "SourceConfig",
    "credits",
    "gather",
    "meter",
    "next_to_find",
    "set_provenance",
    "start",
]
TOLD = 500
"""Refused files in a job's summary; all of them are in its table of results and in the project's list."""
RESULTS = "results.jsonl"
ASPECTS = 3
"""Of what the set does not show, so much is named at once."""


def gather(
    project: Project,
    sources: list[Path] | SourceConfig,
    report: Report = lambda done, total, text: None,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Line], None] = lambda line: None,
) -> Gathered:
    """Import every picture found in `sources`. A bad file is named, kept in the project's list of those, and passed
    over. `tell` is called for each file once it is stored or refused.

    Raises UserError when a source does not exist or is lost on the way, or nothing at all was found in it. Importing
    again adds only what is new, so an interrupted import is continued by repeating it.
    """
    config = sources if isinstance(sources, SourceConfig) else SourceConfig(paths=tuple(map(str, sources)))
    config.check()
    with _opened(config, project, should_stop) as (found, total):
        signed = (_signed(one, config) for one in found)
        result = importing.take_all(project, signed, total, report, should_stop, tell)
    if not (result.added or result.already or result.refused or result.stopped):
        raise UserError(*_nothing(config))
    return result


@contextmanager
def _opened(
    config: SourceConfig, project: Project, should_stop: Callable[[], bool]
) -> Iterator[tuple[Iterable[Candidate | Refused], Callable[[], int]]]:
    """The source's candidates, and how many they will be as far as is known."""
    paths = [Path(path) for path in config.paths]
    match config.kind:
        case "paths":
            listed = []
            for one in local.candidates(paths, project):
                listed.append(one)
                if should_stop():
                    break
            yield listed, lambda: len(listed)
        case "project":
            listed = list(projects.candidates(config.project, project))
            yield listed, lambda: len(listed)
        case "video":
            from lora_studio.steps.sources import video

            yield video.candidates(paths, config.seconds, config.frames, should_stop), lambda: 0
        case _:
            from lora_studio.steps.sources import boorus, hub, net, urls  # here: the network's client is slow to import

            source = {"urls": urls, "booru": boorus, "hub": hub}[config.kind]
            expected = len(config.urls) if config.kind == "urls" else config.limit
            with net.Client(should_stop=should_stop) as fetch:
                yield source.candidates(config, fetch), lambda: expected


def _signed(one: Candidate | Refused, config: SourceConfig) -> Candidate | Refused:
    """With what the user said of all of them, where the source said nothing."""
    if isinstance(one, Refused):
        return one
    words = {name: getattr(one, name) or getattr(config, name) for name in ("author", "licence", "consent")}
    return replace(one, **words)


def _nothing(config: SourceConfig) -> tuple[str, str]:
    if config.kind == "paths":
        return (
            f"There are no pictures in {', '.join(config.paths)}.",
            "Name a folder, a zip or files with pictures in them.",
        )
    where = {"booru": config.tags, "project": config.project, "hub": config.dataset}.get(config.kind, "")
    return f"Nothing was found{f' for {where}' if where else ''}.", "Check the spelling, or ask for something wider."


def start(project: Project, jobs: Jobs, sources: list[Path] | SourceConfig) -> Job:
    """The same import as a job in the background. Its folder holds `results.jsonl`, a line for each file that grows
    while it runs. Raises SettingsError when the source is not said."""
    config = sources if isinstance(sources, SourceConfig) else SourceConfig(paths=tuple(map(str, sources)))
    config.check()
    data = {"root": str(project.root), "project": project.slug, "source": config.to_dict()}
    folder = project.new_folder("jobs", "gather")
    return jobs.start(folder, "lora_studio.steps.gathering:job", data, "Import of pictures", project.slug)


def job(config: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """The job's entry: config holds root, project and source (a SourceConfig)."""
    project = Project.open(Path(config["root"]), config["project"])
    context.report(Phase("gather", "Importing pictures"))
    told = [-1.0]

    def report(done: int, total: int, text: str) -> None:
        if done == total or time.monotonic() - told[0] > 0.2:
            told[0] = time.monotonic()
            context.report(Progress(done, total, text))

    with (context.folder / RESULTS).open("a", encoding="utf-8") as table:

        def tell(line: Line) -> None:
            table.write(json.dumps(line, ensure_ascii=False) + "\n")
            table.flush()

        result = gather(project, SourceConfig.load(config["source"]), report, context.should_stop, tell)
    if result.added and not result.stopped:
        looking.start(project, Jobs(project.root))
    if not result.added and not result.already:
        context.report(Note("No picture could be taken.", "warning"))
    return {**result.to_dict(), "refused": result.to_dict()["refused"][:TOLD], "num_refused": len(result.refused)}


def results(folder: Path, since: int = 0) -> tuple[list[Line], int]:
    """The table of an import's job from byte `since`, and where to go on reading next time."""
    path = folder / RESULTS
    if not path.exists():
        return [], 0
    with path.open("rb") as file:
        file.seek(since)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], since + len(whole)


def enough(plan: Plan) -> int:
    """From how many pictures on the next step is due: what the guide advises, or what teaches the starter."""
    low = dataset.TARGETS[plan.kind][0]
    return min(low, dataset.STARTER_ENOUGH) if plan.base == "starter" else low


def meter(plan: Plan, count: int) -> dict[str, Any]:
    """How the number of pictures stands against the guide's range for the kind, as advice in words."""
    low, high = dataset.TARGETS[plan.kind]
    if enough(plan) <= count < low:
        text = f"{low} or more are usual for a {plan.kind} ({low} to {high}); {count} work with the starter."
    elif count < low:
        text = f"{low} or more are usual for a {plan.kind} ({low} to {high}). Fewer can work: good and different ones."
    elif count <= high:
        text = f"{count} pictures: right for a {plan.kind} ({low} to {high})."
    else:
        text = f"{count} pictures: more than a {plan.kind} usually needs ({low} to {high}). Keep the best."
    return {"count": count, "low": low, "high": high, "enough": enough(plan), "text": text}


def next_to_find(project: Project, audit: dataset.Audit | None = None) -> list[str]:
    """What to look for next, the most useful first: what the plan asks for and no picture shows, as far as captions
    and the judge's look can tell. `audit` saves making it again."""
    plan, used = project.plan, project.used_images()
    aspects = (audit or curation.audit(project)).coverage if used else ()
    lacking = [one for one in aspects if one.judged and one.level != "good"]
    lacking.sort(key=lambda one: one.level != "warn")
    found = [f"{one.name.capitalize()}: {one.text} {one.remedy}".strip() for one in lacking[:ASPECTS]]
    tags = {tag.casefold() for image in used for tag in captions.split(image.caption)}
    names = [one.name for one in aspects]
    wishes = [wish for wish in plan.varies if not any(wish.casefold().startswith(name) for name in names)]
    unseen = [wish for wish in wishes if tags and not any(wish.casefold() in tag for tag in tags)]
    if unseen:
        found.append(f"The plan wants these to vary, and no caption names them: {', '.join(unseen[:6])}.")
    low, high = dataset.TARGETS[plan.kind]
    if len(used) < low:
        found.append(f"{plural(low - len(used), 'more picture')}. {dataset.NEXT[plan.kind]}")
    elif not found and len(used) <= high:
        found.append(f"The number is right. Of more use than more: {dataset.NEXT[plan.kind]}")
    if plan.defining and len(used) < low:
        found.append(f"All should show what makes it itself: {', '.join(plan.defining[:6])}.")
    return found


# --- whom to thank ----------------------------------------------------------------------------------------------------


def set_provenance(project: Project, ids: Iterable[int], **fields: str) -> None:
    """Say of several pictures where they are from: source, url, author, licence, consent. One undo entry.

    Raises UserError for another field or a text that is too long."""
    wrong = [name for name in fields if name not in PROVENANCE]
    if wrong:
        raise UserError(
            f"{wrong[0]} is nothing that is kept of a picture's origin.", f"Known: {', '.join(PROVENANCE)}."
        )
    chosen = list(ids)
    with project.edit(f"Origin of {plural(len(chosen), 'picture')}") as edit:
        for image_id in chosen:
            edit.set(image_id, **fields)


def credits(project: Project) -> list[dict[str, Any]]:
    """Whom the pictures in use are from: `{"author", "licence", "source", "consent", "count", "urls"}`, the largest
    group first. A folder of this machine is named without the path that leads to it."""
    groups: dict[tuple[str, str, str, str], list[Image]] = {}
    for image in project.used_images():
        groups.setdefault((image.author, image.licence, _place(image), image.consent), []).append(image)
    rows = [
        {
            "author": author,
            "licence": licence,
            "source": source,
            "consent": consent,
            "count": len(members),
            "urls": sorted({image.url for image in members if image.url}),
        }
        for (author, licence, source, consent), members in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["count"], row["author"], row["source"]))


def credits_text(project: Project) -> str:
    """The credits to give away with the LoRA; empty where nothing is known of any picture and the plan says nothing."""
    plan = project.plan
    rows = [row for row in credits(project) if row["author"] or row["licence"] or row["urls"]]
    head = [("Thanks to", plan.credit), ("Licence of the pictures", plan.licence)]
    lines = [f"{word}: {value}" for word, value in head if value]
    for row in rows:
        words = [row["author"] or "author unknown", row["licence"] or "licence unknown"]
        lines += ["", f"{', '.join(words)}: {plural(row['count'], 'picture')} from {row['source'] or 'elsewhere'}"]
        lines += [f"  {url}" for url in row["urls"]]
    if not lines:
        return ""
    total = sum(row["count"] for row in rows)
    unknown = len(project.used_images()) - total
    if unknown and rows:
        lines += ["", f"Nothing is known of the origin of {plural(unknown, 'picture')}."]
    return "\n".join([f"Pictures that {plan.name} was trained on", "", *lines]).strip() + "\n"


def _place(image: Image) -> str:
    """A name for where a picture is from that tells nothing of this machine."""
    if image.origin:
        site = json.loads(image.origin).get("site")
        if site:
            return str(site)
    if image.url:
        return urlsplit(image.url).hostname or ""
    return Path(image.source).name if image.source else ""
