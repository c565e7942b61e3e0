"""`lora-studio curate`: look at the pictures, list and filter them, decide, crop, undo."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from lora_studio.cli_common import Json, Named, Projects, Stopped, answer, open_project
from lora_studio.core.errors import UserError
from lora_studio.terminal import watch

Decision = Literal["keep", "maybe", "reject", "new"]


def curate(
    project: Named,
    where: Annotated[
        str, typer.Option(metavar="FILTER", help="Only these pictures, e.g. 'blur > 0.8 and not keep'.")
    ] = "",
    decide: Annotated[Decision | None, typer.Option(help="Decide so of the pictures of --where.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Do all that is proposed: keep, maybe and reject.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the pictures of --where, or all.")] = False,
    sort: Annotated[str, typer.Option(metavar="FIELD", help="Order of --list, e.g. sharpness; -FIELD turns it.")] = "",
    report: Annotated[
        bool, typer.Option("--report", help="What the judge says of the set, and what to do next.")
    ] = False,
    look: Annotated[
        bool, typer.Option("--look", help="Look at the pictures first: faces, lettering, likeness, tags.")
    ] = False,
    crop: Annotated[
        tuple[int, float, float, float, float] | None,
        typer.Option(metavar="ID LEFT TOP RIGHT BOTTOM", help="Train on this part of a picture only; shares 0 to 1."),
    ] = None,
    crop_to: Annotated[
        str, typer.Option(metavar="WHAT", help="Crop the pictures of --where to face, subject, or a shape as 3:4.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back the last edit of the project.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Do again what was taken back.")] = False,
    projects: Projects = None,
    as_json: Json = False,
) -> None:
    """3. Curation: by itself, reject what is blurred, doubled or too small. Rejected pictures stay in the project."""
    opened = open_project(projects, project)
    if undo or redo:
        return _replay(opened, redo, as_json)
    if not opened.images():
        raise UserError(f"{opened.slug} has no pictures.", f"Gather some: lora-studio gather {opened.slug} FOLDER")
    if (decide or crop_to) and not where:
        raise UserError("--where is missing: which pictures?", 'Name them, e.g. --where "id = 3"; "id > 0" is all.')
    if look:
        _look(opened)
    if crop:
        return _crop(opened, crop, as_json)
    if crop_to:
        return _crop_to(opened, where, crop_to, dry_run, as_json)
    if decide:
        return _decide(opened, where, decide, dry_run, as_json)
    if report:
        return _report(opened, as_json)
    if list_ or sort or (where and not accept):
        return _list(opened, where, sort, as_json)
    if look and not accept:
        return answer({"looked": True}, as_json, "All pictures were looked at.")
    _propose(opened, where, accept, dry_run, as_json)


def _replay(project: Any, redo: bool, as_json: bool) -> None:
    label = project.redo() if redo else project.undo()
    if label is None:
        raise UserError(f"There is nothing to {'do again' if redo else 'take back'}.", "No edit has been made yet.")
    answer({"redone" if redo else "undone": label}, as_json, f"{'Done again' if redo else 'Taken back'}: {label}")


def _look(project: Any) -> None:
    from lora_studio.core.jobs import Jobs
    from lora_studio.steps import looking

    jobs = Jobs(project.root)
    job = looking.start(project, jobs, again=True)
    if job is not None and watch(jobs, job).state == "stopped":
        raise Stopped({"looked": False}, "Stopped. What was seen is kept: the same command goes on from there.")
    if left := looking.missing(project):
        raise UserError(f"Another job waits; {left} pictures are left to look at.", "Repeat the command after it.")


def _ids(project: Any, where: str) -> list[int]:
    from lora_studio.steps import curation, filters

    return filters.find(project, where, curation.audit(project, _resolution(project)) if where else None)


def _decide(project: Any, where: str, decision: Decision, dry_run: bool, as_json: bool) -> None:
    from lora_studio.steps import curation

    ids = _ids(project, where)
    if ids and not dry_run:
        curation.decide(project, ids, decision)
    data = {"decision": decision, "ids": ids, "dry_run": dry_run}
    answer(data, as_json, f"{'Would decide' if dry_run else 'Decided'} {decision} of {len(ids)} pictures.")


def _crop(project: Any, words: tuple[int, float, float, float, float], as_json: bool) -> None:
    from lora_studio.steps import curation

    image_id, *box = words
    curation.set_crop(project, image_id, box)
    image = project.image(image_id)
    answer({"id": image_id, "crop": image.crop}, as_json, f"{image.name} is cropped to {image.crop or 'the whole'}.")


def _crop_to(project: Any, where: str, what: str, dry_run: bool, as_json: bool) -> None:
    from lora_studio.steps import crops, curation

    way, boxes, failed = crops.named(what), {}, []
    for image_id in _ids(project, where):
        try:
            boxes[image_id] = way(project, image_id)
        except UserError as error:
            failed.append({"id": image_id, "reason": error.message})
    if not dry_run:
        curation.crop_all(project, boxes)
    data = {"crops": boxes, "failed": failed, "dry_run": dry_run}
    lines = [f"Picture {one['id']}: {one['reason']}" for one in failed]
    answer(data, as_json, "\n".join([f"{len(boxes)} pictures cropped to {what}.", *lines]))


def _list(project: Any, where: str, sort: str, as_json: bool) -> None:
    from lora_studio.steps import curation, filters
    from lora_studio.steps.rows import rows

    found = curation.audit(project, _resolution(project))
    every = rows(project, found.flags)
    ids = filters.select(every, filters.parse(where, every))
    if sort:
        ids = filters.order(project, ids, sort.removeprefix("-"), sort.startswith("-"), every)
    by_id = {row.image.id: row for row in every}
    listed = [_listed(by_id[image_id]) for image_id in ids]
    lines = [f"{one['id']:>6}  {one['decision']:6}  {one['width']}x{one['height']}  {one['file']}" for one in listed]
    for number, one in enumerate(listed):
        lines[number] += f"  ({'; '.join(one['flags'])})" if one["flags"] else ""
    answer({"pictures": listed}, as_json, "\n".join([*lines, f"{len(listed)} of {len(every)} pictures."]))


def _listed(row: Any) -> dict[str, Any]:
    image = row.image
    return {
        "id": image.id,
        "file": image.name,
        "decision": image.decision,
        "reason": image.reason,
        "width": image.width,
        "height": image.height,
        "sharpness": round(image.sharpness, 5),
        "faces": None if row.facts.faces is None else len(row.facts.faces),
        "crops": [list(crop) if crop else None for crop in image.crops],
        "caption": image.caption,
        "flags": [flag.text for flag in row.flags],
    }


def _report(project: Any, as_json: bool) -> None:
    from lora_studio.core.jobs import Jobs
    from lora_studio.steps import curation, looking, training

    config = training.current(project)
    data = curation.report(project, config)
    data["look"] = looking.status(project, Jobs(project.root))
    lines = _report_lines(data)
    if data["look"]["missing"]:
        lines.append(f"{data['look']['missing']} pictures were not looked at closely yet: add --look.")
    answer(data, as_json, "\n".join(lines))


def _report_lines(data: dict[str, Any]) -> list[str]:
    """The report for people; parts that are not known yet are left out."""
    grade, lines = data.get("grade"), []
    if grade:
        lines.append(f"Grade {grade['letter']}: {grade['text']}")
        lines += [f"  Next: {one['text']} {one['remedy']}".rstrip() for one in grade["next"]]
    for name, gauge in data.get("gauges", {}).items():
        lines.append(f"{name.capitalize()} {round(100 * gauge['value'])} %: {gauge['text']}")
    lines += [f"{one['name'].capitalize()}: {one['text']}" for one in data.get("coverage", ())]
    lines += [f"{one['text']} {one['remedy']}".rstrip() for one in data["findings"]]
    for bucket in data["small_buckets"]:
        shape, count = f"{bucket['width']} x {bucket['height']}", bucket["samples"]
        lines.append(f"Shape {shape} never fills a batch ({count} in an epoch): crop its pictures like the others.")
    offered = ", ".join(f"{name} {count}" for name, count in sorted(data["proposals"].items()))
    return [*lines, f"{data['used']} pictures in use." + (f" Proposed: {offered} (--accept)." if offered else "")]


def _propose(project: Any, where: str, everything: bool, dry_run: bool, as_json: bool) -> None:
    from lora_studio.steps import curation

    resolution = _resolution(project)
    found = curation.audit(project, resolution)
    offered = curation.proposals(project, found=found)
    if not everything:
        offered = {image_id: one for image_id, one in offered.items() if one.decision == "reject"}
    if where:
        offered = {image_id: offered[image_id] for image_id in _ids(project, where) if image_id in offered}
    names = {image.id: image.name for image in project.images()}
    if not dry_run:
        curation.accept(project, None, offered)
        found = curation.audit(project, resolution)
    done = [{"id": one, "file": names[one], **asdict(offered[one])} for one in offered]
    by_decision = {name: [one for one in done if one["decision"] == name] for name in ("reject", "maybe", "keep")}
    rejected = [{key: one[key] for key in ("id", "file", "reason")} for one in by_decision["reject"]]
    findings = [{"level": one.level, "text": one.text, "remedy": one.remedy} for one in found.findings]
    used = len(project.used_images())
    data = {"rejected": rejected, "used": used, "findings": findings, "dry_run": dry_run}
    lines = [f"{'Would reject' if dry_run else 'Rejected'} {one['file']}: {one['reason']}" for one in rejected]
    if everything:
        data |= {"maybe": by_decision["maybe"], "kept": by_decision["keep"]}
        lines += [f"{'Would set' if dry_run else 'Set'} aside {one['file']}: {one['reason']}" for one in data["maybe"]]
        lines.append(f"{'Would keep' if dry_run else 'Kept'} {len(data['kept'])} pictures.")
    answer(data, as_json, "\n".join([*lines, f"{used} pictures in use.", *(one["text"] for one in findings)]))


def _resolution(project: Any) -> int:
    from lora_studio.steps import training

    return training.current(project).data.resolution
