"""Tagging: the auto-tagger's job, its answers into captions with a preview before, and edits over many captions."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import ENDED, Job, Jobs
from lora_studio.core.looks import Looks
from lora_studio.core.project import Image, Project
from lora_studio.judge import captions as judge_captions
from lora_studio.judge.dataset import Finding
from lora_studio.steps import captioning, looking
from lora_studio.steps.captioning import Change, Diff
from lora_studio.tagger import models
from lora_studio.tagger.config import TagConfig, TagJob
from lora_studio.tagger.vocabulary import load_vocabulary

Mode = Literal["empty", "append", "replace", "union"]
MODES: dict[Mode, str] = {
    "empty": "Only pictures without a caption get one; the trigger word alone is no caption.",
    "append": "What is there stays in front, in its order; what is new comes behind it.",
    "replace": "What is there goes; only what the tagger says stays.",
    "union": "What the tagger says comes first, in its order; what only the caption had follows.",
}
"""What becomes of the captions there are."""
TARGET = "lora_studio.tagger.tag:tag"
RESULTS, APPLIED = "results.jsonl", "applied.json"
SKIPPED: dict[str, tuple[str, ...]] = {"style": ("style",)}
"""Kinds of tags left out by the kind of LoRA: the trigger word of a style stands for the style."""
LIKELY, MOST = 0.1, 40
"""A suggestion is at least so likely, and at most so many are made."""


def recommended(project: Project) -> TagConfig:
    """The tagger's settings for the project's kind."""
    return TagConfig(models=(project.plan.tagger,), skip_categories=SKIPPED.get(project.plan.kind, ()))


# --- the job -------------------------------------------------------------------------------------------------------


def tag_job(project: Project, config: TagConfig, ids: Iterable[int] | None = None) -> TagJob:
    """The job over the pictures `ids`, or all used ones. A picture of which only one part is trained on is tagged by
    that part. Raises UserError when there are none."""
    wanted = None if ids is None else set(ids)
    images = project.used_images() if wanted is None else [one for one in project.images() if one.id in wanted]
    if not images:
        raise UserError("There are no pictures to tag.", "Gather some first, or take back a rejection.")
    entries = [
        {"id": image.id, "file": str(project.original_path(image))}
        | ({"crop": image.crop} if image.crop and not image.more_crops else {})
        for image in images
    ]
    return TagJob(config=config, images=entries, background=project.plan.background)


def start(project: Project, jobs: Jobs, config: TagConfig, ids: Iterable[int] | None = None) -> Job:
    """Run the auto-tagger in the background; `preview` and `apply` bring its answers into the captions.

    Raises UserError when it runs already, or when a tagger is not there or cannot be used.
    """
    data = tag_job(project, config, ids).to_dict()
    _refuse_second(project, jobs)
    for name in config.models:
        models.kind_of(name)
    if config.vocabulary and not Path(config.vocabulary).expanduser().is_file():
        raise UserError(f"There is no list of words at {config.vocabulary}.", "Name a text file with one tag a line.")
    return jobs.start(project.new_folder("jobs", "tag"), TARGET, data, "Auto-tagging", project.slug)


def resume(project: Project, jobs: Jobs, name: str = "") -> Job:
    """Go on with a tagging that was stopped, failed or interrupted (the last one unless named): pictures that have
    their tags are passed over, and one that has them all is left as it is. Raises UserError when there is none or it
    runs."""
    job = jobs.get(project.job_folder("jobs", name)) if name else last(project, jobs)
    if job is None:
        raise UserError("The tagger has not run yet.", "Start it first.")
    _refuse_second(project, jobs)
    if job.state == "done" and not _left(job):
        return job
    here = {image.id: str(project.original_path(image)) for image in project.images()}  # the project may have moved
    data = job.config
    (job.folder / APPLIED).unlink(missing_ok=True)
    data["images"] = [{**entry, "file": here[entry["id"]]} for entry in data["images"] if entry["id"] in here]
    return jobs.start(job.folder, TARGET, data, job.title, project.slug)


def _refuse_second(project: Project, jobs: Jobs) -> None:
    job = last(project, jobs)
    if job is not None and job.state not in ENDED:
        raise UserError("The tagger is already running.", "Wait for it or stop it first.")


def last(project: Project, jobs: Jobs) -> Job | None:
    """The newest tagging of the project, as it is or was; None before the first."""
    found = [jobs.get(path.parent) for path in project.folder.glob("jobs/tag-*/job.json")]
    return max(found, key=lambda job: job.created, default=None)


def state(project: Project, jobs: Jobs) -> dict[str, Any]:
    """What the page shows of the tagger: `{"job": id or "", "state", "error", "remedy", "done", "total", "text",
    "rate": pictures a second, "left": pictures not done, "failed": [{"file", "reason"}], "config", "applied": None or
    what `apply` returned with "mode" and "time"}`."""
    shown: dict[str, Any] = {"job": "", "state": "", "error": "", "remedy": "", "config": None, "applied": None}
    shown |= {"done": 0, "total": 0, "text": "", "rate": 0.0, "left": 0, "failed": []}
    job = last(project, jobs)
    if job is None:
        return shown
    config = job.config
    shown |= {"job": job.id, "state": job.state, "error": job.error, "remedy": job.remedy, "config": config["config"]}
    shown |= _progress(job)
    if job.state in ENDED:
        lines = results(job.folder)
        names = {entry["id"]: Path(entry["file"]).name for entry in config["images"]}
        names |= {image.id: image.name for image in project.images()}
        shown["left"] = _left(job)
        shown["failed"] = [
            {"file": names.get(one["id"], str(one["id"])), "reason": one["error"]}
            for one in lines.values()
            if one["error"]
        ]
    path = job.folder / APPLIED
    if path.exists():
        shown["applied"] = json.loads(path.read_text("utf-8"))
    return shown


def _left(job: Job) -> int:
    """How many of its pictures have no answer yet."""
    return len(job.config["images"]) - sum(not line["error"] for line in results(job.folder).values())


def _progress(job: Job) -> dict[str, Any]:
    """The last word of the job, and the pace since it began to tag: the loading before is not counted."""
    shown: dict[str, Any] = {"done": 0, "total": 0, "text": "", "rate": 0.0}
    begun: tuple[float, int] | None = None
    for event in job.events()[0]:
        if event["event"] == "Phase":
            shown |= {"done": 0, "total": 0, "text": event["text"]}
            begun = None
        elif event["event"] == "Progress":
            shown |= {"done": event["done"], "total": event["total"], "text": event["text"] or shown["text"]}
            begun = begun or (event["time"], event["done"])
            seconds = event["time"] - begun[0]
            shown["rate"] = round((event["done"] - begun[1]) / seconds, 2) if seconds > 0 else 0.0
    return shown


# --- its answers ----------------------------------------------------------------------------------------------------


def results(folder: Path) -> dict[int, dict[str, Any]]:
    """The answers of a tagging by picture, `{"id", "tags": [[name, probability, category]], "text", "error"}`, also of
    one that still runs or was killed: a half-written last line is left out. Do not alter them."""
    path = folder / RESULTS
    try:
        stat = path.stat()
    except FileNotFoundError:
        return {}
    return _read(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, time_ns: int) -> dict[int, dict[str, Any]]:
    found = {}
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found[line["id"]] = {"tags": [], "text": "", **line, "error": line.get("error") or ""}
    return found


@dataclass(frozen=True)
class Merged:
    """What a tagging would do to the captions."""

    diff: Diff
    skipped: tuple[int, ...]
    """Pictures with an answer that stay as they are."""
    failed: tuple[dict[str, str], ...]
    """`{"file", "reason"}` of pictures without an answer."""


def preview(project: Project, folder: Path, mode: Mode = "append") -> Diff:
    """What `apply` would change; nothing is written. Raises UserError when there are no results."""
    return merged(project, folder, mode).diff


def merged(project: Project, folder: Path, mode: Mode = "append") -> Merged:
    """The results of a tagging merged into the captions as `mode` says (see MODES), the plan's trigger first and its
    pruned tags left out; sentences likewise, as a whole and never cut at commas.

    Raises UserError when there are no results.
    """
    if mode not in MODES:
        raise UserError(f"{mode} is no way to merge.", f"Known: {', '.join(MODES)}.")
    lines = results(folder)
    if not lines:
        raise UserError("The tagger has written no results.", "Look at its log and start it again.")
    plan, images = project.plan, {image.id: image for image in project.images()}
    pruned = {tag.casefold() for tag in plan.prune_tags}
    opening = plan.trigger if plan.captions == "prose" else ""  # with tags in front these begin with the trigger
    changes: list[Change] = []
    skipped: list[int] = []
    failed: list[dict[str, str]] = []
    for line in lines.values():
        image = images.get(line["id"])
        if image is None:
            continue
        if line["error"]:
            failed.append({"file": image.name, "reason": line["error"]})
            continue
        tags = [tag[0] for tag in line["tags"]]
        after = {"caption": image.caption, "prose": image.prose}
        if tags:
            after["caption"] = merge_tags(image.caption, tags, mode, plan.trigger, pruned)
        if line["text"]:
            after["prose"] = merge_prose(image.prose, line["text"], mode, opening)
        found = [Change(image.id, name, getattr(image, name), text) for name, text in after.items()]  # type: ignore[arg-type]
        found = [one for one in found if one.before != one.after]
        changes += found
        if not found:
            skipped.append(image.id)
    return Merged(Diff("Auto-tagging", tuple(changes)), tuple(skipped), tuple(failed))


def merge_tags(caption: str, found: Sequence[str], mode: Mode, trigger: str = "", pruned: Iterable[str] = ()) -> str:
    """The caption with the tagger's tags brought in: see MODES. The trigger is first, pruned tags are left out."""
    before = captions.split(caption)
    if mode == "empty" and any(tag.casefold() != trigger.casefold() for tag in before):
        return caption
    order = {"empty": found, "replace": found, "append": [*before, *found], "union": [*found, *before]}[mode]
    gone = set(pruned)
    kept = [tag for tag in order if tag.casefold() not in gone]
    return captions.join(captions.with_trigger_first(kept, trigger))


def merge_prose(prose: str, text: str, mode: Mode, trigger: str = "") -> str:
    """The sentences with the describer's brought in. Those that are there already are not repeated; a trigger is put
    in front where it does not begin them."""
    bare = prose.strip()
    if trigger and bare.casefold().startswith(trigger.casefold()):
        bare = bare[len(trigger) :].lstrip(" ,.:")
    text = " ".join(text.split())
    if mode == "empty" and bare:
        return prose
    parts = {"empty": [text], "replace": [text], "append": [bare, text], "union": [text, bare]}[mode]
    if mode in ("append", "union") and text.casefold() in bare.casefold():
        parts = [bare]
    body = " ".join(part for part in parts if part)
    begins = body.casefold().startswith(trigger.casefold())
    return f"{trigger}, {body}" if trigger and not begins else body


def apply(project: Project, folder: Path, mode: Mode = "append", digest: str | None = None) -> dict[str, Any]:
    """Merge a tagging's results into the captions: one transaction, one undo entry.

    `digest` is that of the preview that was shown. Returns `{"written", "skipped", "failed": [{"file", "reason"}]}` in
    pictures. Raises UserError when there are no results, when not one of them is good, or when the captions are not
    those of the preview any more.
    """
    found = merged(project, folder, mode)
    written = len({one.id for one in found.diff.changes})
    if not written and not found.skipped:
        reason = f" ({found.failed[0]['file']}: {found.failed[0]['reason']})" if found.failed else ""
        raise UserError(
            f"Nothing was written: the tagger has no answer for any of these pictures{reason}.",
            "Check that the files are still there and start it again.",
        )
    captioning.write(project, found.diff, digest)
    report = {"written": written, "skipped": len(found.skipped), "failed": list(found.failed)}
    write_text(folder / APPLIED, json.dumps({**report, "mode": mode, "time": time.time()}))
    return report


# --- suggestions for one picture --------------------------------------------------------------------------------------


def suggestions(project: Project, image_id: int) -> list[tuple[str, float, str]]:
    """(tag, probability, category) that the taggers see in a picture and its caption lacks, the likeliest first: of
    the last tagging, and of the tagger that looked at the picture. Without the trigger, what is pruned, and the kinds
    that the recommendation leaves out."""
    image, plan = project.image(image_id), project.plan
    found: dict[str, tuple[str, float, str]] = {}
    for name, probability, category in [*_seen(project, image), *_last_answers(project, image_id)]:
        known = found.get(name.casefold())
        if known is None or probability > known[1]:
            found[name.casefold()] = (name, float(probability), category)
    gone = {tag.casefold() for tag in (plan.trigger, *plan.prune_tags, *captions.split(image.caption))}
    skipped = set(recommended(project).skip_categories)
    left = [one for key, one in found.items() if key not in gone and one[2] not in skipped and one[1] >= LIKELY]
    return sorted(left, key=lambda one: (-one[1], one[0]))[:MOST]


def _last_answers(project: Project, image_id: int) -> list[tuple[str, float, str]]:
    folders = sorted(project.folder.glob("jobs/tag-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for folder in reversed(folders):
        line = results(folder).get(image_id)
        if line is not None and not line["error"]:
            return [tuple(tag) for tag in line["tags"]]
    return []


def _seen(project: Project, image: Image) -> list[tuple[str, float, str]]:
    """What the plan's tagger found when it looked at the picture (see steps/look.py)."""
    key = looking.names(project.plan).get("scores", "")
    data = Looks(project.folder).get(key, [image.sha256]).get(image.sha256) if key else None
    if data is None:
        return []
    path = looking.tagger_folder(project.plan.tagger) / "vocabulary.json"
    categories = _categories(path, path.stat().st_mtime_ns) if path.is_file() else {}
    return [(name, probability, categories.get(name, "general")) for name, probability in json.loads(data).items()]


@lru_cache(maxsize=4)
def _categories(path: Path, time_ns: int) -> dict[str, str]:
    found = load_vocabulary(path)
    return dict(zip(found.names, found.categories, strict=True))


# --- what the captions say --------------------------------------------------------------------------------------------


def counts(project: Project) -> list[tuple[str, int]]:
    """Tags of the used pictures with how many pictures have them, the most frequent first."""
    found: Counter[str] = Counter()
    for image in project.used_images():
        found.update(captions.split(image.caption))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def findings(project: Project) -> list[Finding]:
    """What the judge says of the captions."""
    plan = project.plan
    return judge_captions.findings(
        {image.id: image.caption for image in project.used_images()}, plan.trigger, plan.kind, list(plan.varies)
    )


def captioned(images: Iterable[Image]) -> int:
    """How many of the pictures have a caption."""
    return sum(bool(image.caption) for image in images)
