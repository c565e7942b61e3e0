"""Is this a good set of pictures? What is wrong with each one, what with the whole, and what to do next.

It compares what is already known of each picture (numbers taken at import, and what a job found by looking: faces,
embeddings, tags); none of the pictures is opened again. What was not looked at yet takes no part in the judgement.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lora_studio.core.project import Plan
from lora_studio.judge import coverage, duplicates, flags, grade, layout, symmetry
from lora_studio.judge.common import Finding, plural
from lora_studio.judge.coverage import Aspect
from lora_studio.judge.duplicates import Group, Pairs
from lora_studio.judge.facts import Flag, ImageFacts
from lora_studio.judge.flags import PLAINLY_BLURRED
from lora_studio.judge.grade import Gauge, Grade
from lora_studio.judge.measures import Array, Measures, measure, perceptual_hash, sharpness

__all__ = [
    "TARGETS", "Audit", "Finding", "Flag", "ImageFacts", "Measures",
    "audit", "measure", "perceptual_hash", "sharpness",
]  # fmt: skip

TARGETS: dict[str, tuple[int, int]] = {"character": (15, 50), "style": (50, 200), "concept": (20, 100)}
"""How many pictures are advised, from the guide's recipes."""
STARTER_ENOUGH = 20
"""So many teach the starter any kind: the sample projects have 24 good ones each, and their LoRAs learn from them
(docs of the demo); 20 leaves room for a few that are rejected."""

ENOUGH_FOR_SPREAD = 8
SAME_BACKGROUND = 36.0
MANY_ALIKE = 0.6
UNUSABLE = frozenset({"duplicate", "near_duplicate"}) | flags.BAD
"""Flags with which a picture that nobody chose to keep does not count as a good one."""


@dataclass(frozen=True)
class Audit:
    """The verdict on a set: findings over all of it, flags for pictures by id, copies, gauges, grade, coverage."""

    findings: list[Finding]
    flags: dict[int, list[Flag]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    gauges: dict[str, Gauge] = field(default_factory=dict)
    """`consistency` and `diversity`, where enough is known."""
    grade: Grade = field(default_factory=lambda: Grade("F", 0, grade.WORDS["F"], ()))
    coverage: tuple[Aspect, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "flags": {image: [vars(flag) for flag in found] for image, found in self.flags.items()},
            "groups": [asdict(group) for group in self.groups],
            "gauges": {name: asdict(gauge) for name, gauge in self.gauges.items()},
            "grade": asdict(self.grade),
            "coverage": [asdict(aspect) for aspect in self.coverage],
        }


def audit(images: list[ImageFacts], plan: Plan, resolution: int = 0, pairs: Pairs | None = None) -> Audit:
    """Judge the pictures for the plan's LoRA. `resolution` is the training side in pixels; 0 when not chosen yet, then
    small ones are found by comparison with the rest. `pairs` are the verdicts on pairs that were looked at closely.

    The order of the pictures has no influence. Raises KeyError for an unknown kind.
    """
    images = sorted(images, key=lambda image: image.id)
    low, high = TARGETS[plan.kind]
    groups = duplicates.groups(images, pairs)
    flagged = _flags(images, groups, plan.kind, resolution)
    usable = [image for image in images if _is_good(image, flagged)]
    aspects = coverage.coverage(usable, plan)
    vectors = [image.embedding for image in usable if image.embedding is not None]
    apart = layout.outliers(np.stack(vectors)) if vectors else None
    gauges = {
        "consistency": grade.consistency(usable, plan, apart),
        "diversity": grade.diversity(usable, plan, aspects, apart),
    }
    about = {name: finding for name in ABOUT if (finding := _about(name, flagged))}
    wrong = coverage.against_plan(usable, plan)
    findings = [_count(len(usable), len(images), plan.kind, low, high), *about.values(), *wrong]
    findings += symmetry.findings(usable, plan, groups)
    findings += _spread(usable, plan.kind, aspects)
    findings += [Finding("warn", one.text, one.remedy, one.values[0].ids) for one in aspects if one.level == "warn"]
    if len(usable) < low:
        findings.append(_next(low - len(usable), plan.kind, aspects))
    graded = grade.grade(
        len(images), len(usable), min(low, STARTER_ENOUGH) if plan.base == "starter" else low,
        [finding for name, finding in about.items() if name in UNUSABLE], gauges, aspects, plan, wrong,
    )  # fmt: skip
    known = {name: gauge for name, gauge in gauges.items() if gauge is not None}
    return Audit(findings, flagged, groups, known, graded, aspects)


def _flags(images: list[ImageFacts], groups: list[Group], kind: str, resolution: int) -> dict[int, list[Flag]]:
    """By picture, the copies first."""
    flagged: dict[int, list[Flag]] = {}
    for group in groups:
        for member in group.members:
            name = "duplicate" if member.relation == "same file" else "near_duplicate"
            flagged.setdefault(member.id, []).append(Flag(name, member.text, group.best))
    for image, found in flags.per_image(images, kind, resolution).items():
        flagged.setdefault(image, []).extend(found)
    for image, flag in _apart(images):
        flagged.setdefault(image, []).append(flag)
    return flagged


def _is_good(image: ImageFacts, flagged: dict[int, list[Flag]]) -> bool:
    return image.decision == "keep" or not any(flag.name in UNUSABLE for flag in flagged.get(image.id, []))


def _next(missing: int, kind: str, aspects: Sequence[Aspect]) -> Finding:
    """What to look for, from what is missing; in general words where nothing is known."""
    lacking = [one.remedy for one in aspects if one.judged and one.level != "good" and one.remedy]
    what = " ".join(lacking[:2]) or NEXT[kind]
    return Finding("info", f"To look for next: {plural(missing, 'more picture')}. {what}")


def _apart(images: list[ImageFacts]) -> list[tuple[int, Flag]]:
    """Pictures whose embedding lies far from all others."""
    known = [image for image in images if image.embedding is not None]
    if not known:
        return []
    stack = np.stack([image.embedding for image in known if image.embedding is not None])
    apart, far, cut = layout.outliers(stack)
    usual = float(np.median(far))
    found = []
    for image, value, stands in zip(known, far, apart, strict=True):
        if stands:
            text = f"unlike the others: {value:.2f} away from those most like it, usual are {usual:.2f}"
            found.append((image.id, Flag("outlier", text, None, round(float(value), 3), round(cut, 3))))
    return found


ABOUT: dict[str, tuple[str, str]] = {
    "duplicate": ("the same file as another", "Reject the copies: a doubled picture counts double in training."),
    "near_duplicate": ("nearly the same as another", "Keep the best of each group, so that none is learned by heart."),
    "blurred": ("blurred", "Reject it, or find a sharper version: blur is learned like any other trait."),
    "too_small": ("too small", "Find a larger version; enlarging teaches soft edges."),
    "aspect": ("very wide or tall", "Crop to the subject."),
    "dark": ("too dark", "Reject it, or brighten it before you bring it in."),
    "bright": ("too bright", "Reject it, or find a version that is not washed out."),
    "flat": ("faint", "Raise the contrast, or reject it if the others are not so."),
    "blocky": ("spoilt by JPEG", "Find a better version: the blocks are learned like any other texture."),
    "borders": ("framed by bars of one colour", "Crop the bars off, or they will be drawn along."),
    "lettering": ("marked with lettering", "Crop or mask it, or a watermark will be drawn along."),
    "no_face": ("without a face that could be found", "Look whether it shows the character well enough."),
    "many_faces": ("with several faces", "Crop to the character, or mask the others."),
    "small_face": ("with a small face", "Crop to the face, so that it can be learned."),
    "low_aesthetic": ("rated low", "A guess at taste only: look yourself."),
    "outlier": ("unlike the others", "Look at each: is it the same subject, in the same way of drawing?"),
}
NEXT = {
    "character": "The same character from other angles, with other expressions, clothes and backgrounds.",
    "style": "Other subjects in the same style: people, places, things, near and far, light and dark.",
    "concept": "The same idea on other people and things, from other angles, in other surroundings.",
}


def _about(name: str, flagged: dict[int, list[Flag]]) -> Finding | None:
    what, remedy = ABOUT[name]
    ids = tuple(image for image, found in flagged.items() if any(flag.name == name for flag in found))
    if not ids:
        return None
    verb = "is" if len(ids) == 1 else "are"
    return Finding("warn", f"{plural(len(ids), 'picture')} {verb} {what}.", remedy, ids, {"count": len(ids)})


def _count(good: int, total: int, kind: str, low: int, high: int) -> Finding:
    evidence = {"good": good, "total": total, "target": [low, high]}
    aim = f"the guide advises {low} to {high} for a {kind}"
    have = plural(good, "good picture")
    if good == 0:
        return Finding("bad", f"There is no good picture yet; {aim}.", "Gather some.", (), evidence)
    if good < low / 3:
        text = f"Only {have}: too few for a {kind} that is more than a copy of them; {aim}."
        return Finding("bad", text, "Gather more, or crop several views out of large pictures.", (), evidence)
    if good < low:
        text = f"{have}: it can work, but {aim}."
        return Finding("warn", text, "Gather a few more different ones if you can.", (), evidence)
    if good > high:
        text = f"{have}: more than needed; {aim}."
        return Finding("info", text, "Keep the best: 20 perfect pictures beat 100 mediocre ones.", (), evidence)
    return Finding("good", f"{have}: a good number for a {kind} ({low} to {high} advised).", "", (), evidence)


def _spread(images: list[ImageFacts], kind: str, aspects: Sequence[Aspect]) -> list[Finding]:
    """Backgrounds and light that are too alike. Both from the 8 x 8 colour grid, so only plain differences count.
    Backgrounds are left to the coverage where tags tell of them."""
    if len(images) < ENOUGH_FOR_SPREAD:
        return []
    grids = np.stack([np.frombuffer(image.signature, np.uint8).reshape(8, 8, 3) for image in images]).astype(float)
    told = any(aspect.name == "background" and aspect.judged for aspect in aspects)
    backgrounds = None if told else _backgrounds(grids, images, kind)
    return [finding for finding in (backgrounds, _light(grids), _softness(images)) if finding]


def _backgrounds(grids: Array, images: list[ImageFacts], kind: str) -> Finding | None:
    """grids (N, 8, 8, 3). A picture's background is the median colour of its upper edge and upper sides (the lower
    part mostly shows the body). Alike: within 36 of 255 (Euclidean distance over RGB)."""
    edge = np.concatenate([grids[:, 0], grids[:, 1:6, 0], grids[:, 1:6, 7]], axis=1)
    colour = np.median(edge, axis=1)
    some = colour[:: len(colour) // 1000 + 1]  # candidates for the commonest colour
    near = [int((np.linalg.norm(colour - candidate, axis=1) <= SAME_BACKGROUND).sum()) for candidate in some]
    common = some[int(np.argmax(near))]
    alike = np.linalg.norm(colour - common, axis=1) <= SAME_BACKGROUND
    share = float(alike.mean())
    if kind == "style" or share < MANY_ALIKE:
        return None
    red, green, blue = (int(value) for value in common)
    text = f"{round(share * 100)} % of the backgrounds have nearly the same colour; the {kind} will take it on."
    remedy = "Add pictures before other backgrounds, or keep the background as a tag in every caption."
    ids = tuple(image.id for image, same in zip(images, alike, strict=True) if same)
    return Finding("warn", text, remedy, ids, {"share": round(share, 2), "colour": [red, green, blue]})


def _light(grids: Array) -> Finding | None:
    """grids (N, 8, 8, 3). Spread of the mean brightness over the set; real sets lie at 20 to 60 of 255."""
    brightness = grids.mean(axis=(1, 2, 3))
    spread = float(brightness.std())
    if spread >= 8:
        return None
    text = "All pictures are about equally bright; the LoRA will draw everything so."
    remedy = "Add some darker and some lighter ones, if the subject allows."
    return Finding(
        "info", text, remedy, (), {"brightness": round(float(brightness.mean())), "spread": round(spread, 1)}
    )


def _softness(images: list[ImageFacts]) -> Finding | None:
    """The whole set is as soft as a blurred picture: no single one stands out then."""
    median = float(np.median([image.sharpness for image in images]))
    if median >= PLAINLY_BLURRED:
        return None
    text = "The whole set is soft: if that is not the style, look for sharper originals."
    return Finding("info", text, "", (), {"sharpness": round(median, 5)})
