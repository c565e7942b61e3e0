"""Curation: what is wrong with each picture and with the set, and the decisions, all of them undoable."""

from collections.abc import Iterable
from typing import Any

from lora_studio.core.project import Image, Project
from lora_studio.engine import buckets as engine_buckets
from lora_studio.engine.config import TrainConfig
from lora_studio.judge import dataset

BAD_FLAGS = ("blurred", "duplicate", "near_duplicate", "too_small", "aspect")


def facts(images: Iterable[Image]) -> list[dataset.ImageFacts]:
    """What the judge looks at."""
    return [
        dataset.ImageFacts(
            id=image.id,
            width=image.width,
            height=image.height,
            sharpness=image.sharpness,
            phash=image.phash,
            signature=image.signature,
            sha256=image.sha256,
        )
        for image in images
    ]


def audit(project: Project, resolution: int = 0) -> dataset.Audit:
    """The judge's findings over all pictures that are not rejected, and its flags for each."""
    return dataset.audit(facts(project.used_images()), project.plan, resolution)


def keep(project: Project, ids: Iterable[int]) -> None:
    """Mark pictures as kept."""
    _decide(project, list(ids), "keep", "")


def reject(project: Project, ids: Iterable[int], reason: str = "") -> None:
    """Take pictures out of the training; they stay in the project."""
    _decide(project, list(ids), "reject", reason)


def reset(project: Project, ids: Iterable[int]) -> None:
    """Forget the decision."""
    _decide(project, list(ids), "new", "")


def _decide(project: Project, ids: list[int], decision: str, reason: str) -> None:
    verb = {"keep": "Keep", "reject": "Reject", "new": "Reset"}[decision]
    with project.edit(f"{verb} {len(ids)} picture{'s' if len(ids) != 1 else ''}") as edit:
        for image_id in ids:
            edit.set(image_id, decision=decision, reason=reason)


def set_crop(project: Project, image_id: int, box: tuple[float, float, float, float] | None) -> None:
    """Train only on this part of the picture: left, top, right, bottom as shares; None for the whole."""
    whole = box is not None and tuple(round(edge, 3) for edge in box) == (0, 0, 1, 1)
    with project.edit("Crop" if box and not whole else "Undo the crop") as edit:
        edit.set(image_id, crop=None if whole else box)


def auto(project: Project, resolution: int = 0) -> list[dict[str, Any]]:
    """Reject what the audit flags as bad, and of pictures that are alike all but the best; kept ones stay.

    One undo entry. Returns `{"id", "file", "reason"}` for each rejected picture.
    """
    images = {image.id: image for image in project.used_images()}
    found = audit(project, resolution)
    rejected = []
    with project.edit("Reject the flagged pictures") as edit:
        for image_id, flags in found.flags.items():
            image = images[image_id]
            bad = [flag for flag in flags if flag.name in BAD_FLAGS]
            if not bad or image.decision == "keep":
                continue
            reason = "; ".join(flag.text for flag in bad)
            edit.set(image_id, decision="reject", reason=reason)
            rejected.append({"id": image_id, "file": image.name, "reason": reason})
    return rejected


def buckets(project: Project, config: TrainConfig) -> list[dict[str, int]]:
    """Which training sizes the used pictures fall into: `{"width", "height", "count"}`, the fullest first."""
    counts: dict[tuple[int, int], int] = {}
    sizes = engine_buckets.make_buckets(config.data)
    for image in project.used_images():
        bucket = engine_buckets.assign(*cropped_size(image), config.data, sizes)
        counts[bucket] = counts.get(bucket, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [{"width": width, "height": height, "count": count} for (width, height), count in ordered]


def cropped_size(image: Image) -> tuple[int, int]:
    """Width and height of what will be trained on, after the crop."""
    if image.crop is None:
        return image.width, image.height
    left, top, right, bottom = image.crop
    return max(1, round((right - left) * image.width)), max(1, round((bottom - top) * image.height))
