"""Curation: what is wrong with each picture and with the set, and the decisions, all of them undoable."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_studio.core.project import Box, Image, Project
from lora_studio.engine import buckets as engine_buckets
from lora_studio.engine import pixels
from lora_studio.engine.config import TrainConfig
from lora_studio.judge import dataset, flags
from lora_studio.judge.facts import Flag, ImageFacts
from lora_studio.steps import looking
from lora_studio.steps.wording import as_trained

BAD_FLAGS = flags.BAD | set(dataset.UNUSABLE)
"""What a picture is proposed to be rejected for; any other flag only sets it aside."""
VERBS = {"keep": "Keep", "maybe": "Set aside", "reject": "Reject", "new": "Reset"}


@dataclass(frozen=True)
class Proposal:
    """What the studio would decide of a picture, and why."""

    decision: str
    reason: str


def audit(project: Project, resolution: int = 0, images: Sequence[Image] | None = None) -> dataset.Audit:
    """The judge's findings over all pictures that are neither rejected nor set aside, and its flags for each."""
    used = [image for image in (project.images() if images is None else images) if image.used]
    return judge(project, looking.facts(project, used), resolution)


def judge(project: Project, facts: list[ImageFacts], resolution: int = 0) -> dataset.Audit:
    """The same for facts that are at hand."""
    return dataset.audit(facts, project.plan, resolution, looking.pairs(project, [one.sha256 for one in facts]))


def weighed(found: dataset.Audit) -> set[int]:
    """Ids of the pictures for which the audit asks whether they were kept: copies of each other and flagged ones."""
    copies = {image_id for group in found.groups for image_id in (group.best, *(one.id for one in group.members))}
    return copies | set(found.flags)


# --- decisions ------------------------------------------------------------------------------------------------------


def keep(project: Project, ids: Iterable[int], reason: str = "") -> None:
    """Mark pictures as kept."""
    decide(project, ids, "keep", reason)


def maybe(project: Project, ids: Iterable[int], reason: str = "") -> None:
    """Set pictures aside: they are not trained on until they are kept."""
    decide(project, ids, "maybe", reason)


def reject(project: Project, ids: Iterable[int], reason: str = "") -> None:
    """Take pictures out of the training; they stay in the project."""
    decide(project, ids, "reject", reason)


def reset(project: Project, ids: Iterable[int]) -> None:
    """Forget the decision."""
    decide(project, ids, "new")


def decide(project: Project, ids: Iterable[int], decision: str, reason: str = "") -> None:
    """Decide keep, maybe, reject or new of pictures: one undo entry. Raises UserError for an unknown picture."""
    ids = list(ids)
    with project.edit(f"{VERBS.get(decision, decision)} {_pictures(len(ids))}") as edit:
        for image_id in ids:
            edit.set(image_id, decision=decision, reason=reason)


def proposals(
    project: Project, resolution: int = 0, images: Sequence[Image] | None = None, found: dataset.Audit | None = None
) -> dict[int, Proposal]:
    """What to decide of each picture that nobody has decided on yet: reject what is bad and of copies all but the best,
    set aside what is doubtful, keep the rest. `images` and `found` are those of the project, where at hand."""
    images = project.images() if images is None else images
    found = audit(project, resolution, images) if found is None else found
    return {image.id: _proposal(found.flags.get(image.id, [])) for image in images if image.decision == "new"}


def _proposal(found: list[Flag]) -> Proposal:
    bad = [flag for flag in found if flag.name in BAD_FLAGS]
    if found:
        return Proposal("reject" if bad else "maybe", "; ".join(flag.text for flag in bad or found))
    return Proposal("keep", "nothing is wrong with it")


def accept(
    project: Project, ids: Iterable[int] | None = None, offered: Mapping[int, Proposal] | None = None
) -> list[dict[str, Any]]:
    """Do as proposed, for these pictures or for all: one undo entry. Returns `{"id", "file", "decision", "reason"}` of
    each. `offered` is what a person saw; else it is worked out anew. Pictures decided meanwhile stay as they are."""
    offered = proposals(project) if offered is None else offered
    images = {image.id: image for image in project.images()}
    chosen = [image_id for image_id in (offered if ids is None else ids) if image_id in offered]
    chosen = [image_id for image_id in chosen if image_id in images and images[image_id].decision == "new"]
    done = []
    with project.edit(f"Accept {len(chosen)} proposal{'s' if len(chosen) != 1 else ''}") as edit:
        for image_id in chosen:
            one = offered[image_id]
            edit.set(image_id, decision=one.decision, reason=one.reason if one.decision != "keep" else "")
            done.append({"id": image_id, "file": images[image_id].name, **vars(one)})
    return done


def auto(project: Project, resolution: int = 0) -> list[dict[str, Any]]:
    """Accept all proposals to reject, and only those. One undo entry. Returns `{"id", "file", "reason"}` of each."""
    offered = {image_id: one for image_id, one in proposals(project, resolution).items() if one.decision == "reject"}
    return [{key: one[key] for key in ("id", "file", "reason")} for one in accept(project, None, offered)]


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"


# --- crops ----------------------------------------------------------------------------------------------------------


def set_crop(project: Project, image_id: int, box: Box | None) -> None:
    """Train only on this part of the picture: left, top, right, bottom as shares; None for the whole. Further crops of
    the picture stay."""
    set_crops(project, image_id, [box, *project.image(image_id).more_crops])


def set_crops(project: Project, image_id: int, boxes: Sequence[Box | None]) -> None:
    """Train on these parts of the picture, each like a picture of its own; on the whole when there are none. One undo
    entry. Raises UserError for a box outside the picture."""
    parts = list(dict.fromkeys(None if box is None or _is_whole(box) else tuple(box) for box in boxes)) or [None]
    if None in parts and len(parts) > 1:  # the whole picture beside its parts: only the first may be the whole
        parts = [None, *(box for box in parts if box is not None)]
    label = "Undo the crop" if parts == [None] else "Crop" if len(parts) == 1 else f"{len(parts)} crops"
    with project.edit(label) as edit:
        edit.set(image_id, crop=parts[0], more_crops=parts[1:])


def crop_all(project: Project, boxes: Mapping[int, Box]) -> None:
    """Train only on these parts of pictures, by id; one undo entry. What other crops they had is replaced."""
    with project.edit(f"Crop {_pictures(len(boxes))}") as edit:
        for image_id, box in boxes.items():
            edit.set(image_id, crop=None if _is_whole(box) else box, more_crops=())


def _is_whole(box: Box) -> bool:
    return tuple(round(edge, 3) for edge in box) == (0, 0, 1, 1)


def cropped_sizes(image: Image) -> list[tuple[int, int]]:
    """Width and height of each part that will be trained on."""
    return [pixels.cropped(image.width, image.height, crop) for crop in image.crops]


def entries(images: Iterable[Image]) -> list[tuple[int, int, int, str, str]]:
    """(width, height, repeats, tags, sentences) of all that is trained on, a line for each crop: what `steps_for`
    counts."""
    return [(*size, image.repeats, image.caption, image.prose) for image in images for size in cropped_sizes(image)]


# --- buckets --------------------------------------------------------------------------------------------------------


def preview(
    project: Project, config: TrainConfig, image_id: int, crops: Sequence[Box | None] | None = None
) -> list[dict[str, Any]]:
    """What of a picture will be trained, for each of its crops (or of `crops`, which need not be saved) and each
    resolution: `{"crop": from 0, "resolution", "bucket":
    [w, h], "size": [w, h] of the crop in pixels, "scale", "enlarged", "cut": share of the crop that is lost, "view":
    [l, t, r, b] that is trained, as shares of the picture}`."""
    image = project.image(image_id)
    found = []
    for resolution in engine_buckets.resolutions(config.data):
        sizes = engine_buckets.make_buckets(config.data, resolution)
        for number, crop in enumerate(crops or image.crops):
            width, height = pixels.cropped(image.width, image.height, crop)
            bucket = engine_buckets.assign(width, height, config.data, sizes, resolution)
            wide, high = engine_buckets.fit(width, height, bucket)[0]
            found.append(
                {
                    "crop": number,
                    "resolution": resolution,
                    "bucket": list(bucket),
                    "size": [width, height],
                    "scale": max(wide / width, high / height),
                    "enlarged": wide > width or high > height,
                    "cut": 1 - bucket[0] * bucket[1] / (wide * high),
                    "view": list(pixels.view(image.width, image.height, crop, bucket)),
                }
            )
    return found


def buckets(project: Project, config: TrainConfig) -> list[dict[str, Any]]:
    """Which training sizes the used pictures fall into: `{"width", "height", "count": crops, "samples": how often they
    come up in an epoch, "ids"}`, the fullest first. A picture is in several with several crops or resolutions."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    plan = project.plan
    images = [as_trained(image, plan) for image in project.used_images()]
    repeats = engine_buckets.sample_counts([entry[2:] for entry in entries(images)], config.data)
    for resolution in engine_buckets.resolutions(config.data):
        sizes = engine_buckets.make_buckets(config.data, resolution)
        times = iter(repeats)
        for image in images:
            for size in cropped_sizes(image):
                width, height = engine_buckets.assign(*size, config.data, sizes, resolution)
                new = {"width": width, "height": height, "count": 0, "samples": 0, "ids": []}
                bucket = found.setdefault((width, height), new)
                bucket["count"] += 1
                bucket["samples"] += next(times)
                bucket["ids"].append(image.id)
    for bucket in found.values():
        bucket["ids"] = list(dict.fromkeys(bucket["ids"]))
    return sorted(found.values(), key=lambda bucket: (-bucket["count"], bucket["width"], bucket["height"]))


def small_buckets(project: Project, config: TrainConfig) -> list[dict[str, Any]]:
    """The buckets that never fill a batch, as `buckets` gives them: their pictures train, but in a batch of
    `samples` in place of data.batch_size, so that each of them weighs more. The trainer leaves no picture out."""
    return [bucket for bucket in buckets(project, config) if bucket["samples"] < config.data.batch_size]


# --- report ---------------------------------------------------------------------------------------------------------


def report(project: Project, config: TrainConfig) -> dict[str, Any]:
    """All that the judge says of the set, as plain data: `{"used", "grade", "gauges", "coverage", "findings", "groups",
    "flags", "proposals": {decision: count}, "small_buckets"}`."""
    found = audit(project, config.data.resolution)
    offered = proposals(project, found=found)
    return {
        **found.to_dict(),
        "used": len(project.used_images()),
        "proposals": dict(Counter(one.decision for one in offered.values())),
        "small_buckets": small_buckets(project, config),
    }
