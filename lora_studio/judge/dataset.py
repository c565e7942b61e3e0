"""Is this a good set of pictures? What is wrong with each one, what with the whole, and what to look for next.

Every measure here compares numbers taken at import (`measures.py`); none looks at the pictures again, so an audit of
10,000 pictures takes seconds. What a picture *shows* is beyond it: a wrong character or a watermark is for the eye.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_studio.judge.common import Finding, plural
from lora_studio.judge.facts import Flag, ImageFacts
from lora_studio.judge.measures import Array, Measures, measure, perceptual_hash, sharpness

__all__ = [
    "TARGETS", "Audit", "Finding", "Flag", "ImageFacts", "Measures",
    "audit", "measure", "near_duplicates", "perceptual_hash", "sharpness",
]  # fmt: skip

TARGETS: dict[str, tuple[int, int]] = {"character": (15, 50), "style": (50, 200), "concept": (20, 100)}
"""How many pictures are advised, from the guide's recipes."""
STARTER_ENOUGH = 20
"""So many teach the starter any kind: the sample projects have 24 good ones each, and their LoRAs learn from them
(docs of the demo); 20 leaves room for a few that are rejected."""

# Measured on the three sample projects (75 different pictures, 9 planted bad ones): a copy re-saved as JPEG or made
# smaller differs by at most 2 bits and 5 levels; the closest two different pictures by 2 bits and 16 levels.
MAX_BITS = 6
MAX_LEVELS = 10
# There, pictures blurred on purpose lie at 0.0002 to 0.0013 and the others at 0.077 to 0.61.
PLAINLY_BLURRED = 0.002
ENOUGH_FOR_BLUR = 5
BLURRED_SHARE = 1 / 6
BLURRED_DEVIATIONS = 3.5  # the usual cut for outliers by median and MAD (Iglewicz and Hoaglin, 1993)
MAX_ENLARGEMENT = 1.25
"""A picture enlarged more than this to reach the training size teaches softness. Chosen by eye."""
SMALL_IN_SET = 1 / 3
MAX_ASPECT = 3.0
"""The usual buckets (256 to 1024 at 512) end near 4:1; beyond 3:1 only a sliver survives the crop."""
ENOUGH_FOR_SPREAD = 8
SAME_BACKGROUND = 36.0
MANY_ALIKE = 0.6


@dataclass(frozen=True)
class Audit:
    """The verdict on a set: findings over all of it, flags for single pictures by id."""

    findings: list[Finding]
    flags: dict[int, list[Flag]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        flags = {image: [vars(flag) for flag in found] for image, found in self.flags.items()}
        return {"findings": [finding.to_dict() for finding in self.findings], "flags": flags}


def audit(images: list[ImageFacts], kind: str, resolution: int = 0) -> Audit:
    """Judge the pictures for a LoRA of this kind. `resolution` is the training side in pixels; 0 when not chosen yet,
    then small ones are found by comparison with the rest. Raises KeyError for an unknown kind."""
    low, high = TARGETS[kind]
    flags: dict[int, list[Flag]] = {}
    for found in (_copies(images), _blurred(images), _too_small(images, resolution), _long(images)):
        for image, flag in found:
            flags.setdefault(image, []).append(flag)
    usable = [image for image in images if image.id not in flags]
    findings = [_count(len(usable), len(images), kind, low, high)]
    findings += [finding for finding in (_about(name, flags) for name in ABOUT) if finding]
    findings += _spread(usable, kind)
    if len(usable) < low:
        missing = low - len(usable)
        findings.append(Finding("info", f"To look for next: {plural(missing, 'more picture')}. {NEXT[kind]}"))
    return Audit(findings, flags)


def near_duplicates(
    images: list[ImageFacts], max_bits: int = MAX_BITS, max_levels: int = MAX_LEVELS
) -> list[list[ImageFacts]]:
    """Groups of two or more pictures that are the same picture re-saved, resized or slightly changed; best first.

    Two belong together when their hashes differ in at most `max_bits` of 64 bits *and* no field of the 8 x 8 colour
    grid differs by more than `max_levels` of 255: the hash alone takes one pose in other clothes for the same picture.
    Mirrored, cropped or recoloured copies are not found.
    """
    if not images:
        return []
    hashes = np.array([image.phash for image in images], dtype=np.uint64)
    colours = np.stack([np.frombuffer(image.signature, np.uint8) for image in images]).astype(np.int16)
    group = list(range(len(images)))

    def root(place: int) -> int:
        while group[place] != place:
            group[place] = group[group[place]]
            place = group[place]
        return place

    for first in range(len(images) - 1):
        near = np.nonzero(np.bitwise_count(hashes[first + 1 :] ^ hashes[first]) <= max_bits)[0] + first + 1
        if len(near):
            near = near[np.abs(colours[near] - colours[first]).max(axis=1) <= max_levels]
        for second in near:
            group[root(int(second))] = root(first)
    groups: dict[int, list[ImageFacts]] = {}
    for place, image in enumerate(images):
        groups.setdefault(root(place), []).append(image)
    return [sorted(found, key=_worth) for found in groups.values() if len(found) > 1]


def _worth(image: ImageFacts) -> tuple[float, float, int]:
    """Sort key: the largest first, then the sharpest, then the first imported."""
    return -image.width * image.height, -image.sharpness, image.id


def _copies(images: list[ImageFacts]) -> list[tuple[int, Flag]]:
    found = []
    for best, *others in near_duplicates(images):
        for image in others:
            if image.sha256 == best.sha256:
                found.append((image.id, Flag("duplicate", "the very same file as another picture", best.id)))
                continue
            smaller = image.side < 0.9 * best.side
            text = "a smaller copy of another picture" if smaller else "nearly the same as another picture"
            found.append((image.id, Flag("near_duplicate", text, best.id)))
    return found


def _blurred(images: list[ImageFacts]) -> list[tuple[int, Flag]]:
    """Against the set's own median, since a soft style is not blurred; plainly blurred ones where the set is small."""
    if len(images) < ENOUGH_FOR_BLUR:
        text = "blurred: there are no sharp edges in it"
        return [(image.id, Flag("blurred", text)) for image in images if image.sharpness < PLAINLY_BLURRED]
    values = np.log2([max(image.sharpness, 1e-9) for image in images])
    median = float(np.median(values))
    deviation = max(float(np.median(np.abs(values - median))) * 1.4826, 0.3)
    cut = min(median - BLURRED_DEVIATIONS * deviation, median + float(np.log2(BLURRED_SHARE)))
    found = []
    for image, value in zip(images, values, strict=True):
        if value < cut:
            times = f"{min(999, round(2 ** (median - float(value))))} times"
            found.append((image.id, Flag("blurred", f"blurred: edges are {times} softer than in the other pictures")))
    return found


def _too_small(images: list[ImageFacts], resolution: int) -> list[tuple[int, Flag]]:
    if resolution:
        least = resolution / MAX_ENLARGEMENT
        why = f"would be enlarged to train at {resolution}"
    else:
        least = float(np.median([image.side for image in images])) * SMALL_IN_SET if len(images) >= 5 else 0
        why = "much smaller than the other pictures"
    return [
        (image.id, Flag("too_small", f"too small ({image.width} x {image.height}): {why}"))
        for image in images
        if image.side < least
    ]


def _long(images: list[ImageFacts]) -> list[tuple[int, Flag]]:
    found = []
    for image in images:
        aspect = max(image.width, image.height) / min(image.width, image.height)
        if aspect > MAX_ASPECT:
            shape = "wide" if image.width > image.height else "tall"
            found.append((image.id, Flag("aspect", f"very {shape} ({aspect:.1f} to 1): crop it to the subject")))
    return found


ABOUT: dict[str, tuple[str, str]] = {
    "duplicate": ("the same file as another", "Reject the copies: a doubled picture counts double in training."),
    "near_duplicate": ("nearly the same as another", "Keep the best of each group, so that none is learned by heart."),
    "blurred": ("blurred", "Reject it, or find a sharper version: blur is learned like any other trait."),
    "too_small": ("too small", "Find a larger version; enlarging teaches soft edges."),
    "aspect": ("very wide or tall", "Crop to the subject."),
}
NEXT = {
    "character": "The same character from other angles, with other expressions, clothes and backgrounds.",
    "style": "Other subjects in the same style: people, places, things, near and far, light and dark.",
    "concept": "The same idea on other people and things, from other angles, in other surroundings.",
}


def _about(name: str, flags: dict[int, list[Flag]]) -> Finding | None:
    what, remedy = ABOUT[name]
    ids = tuple(image for image, found in flags.items() if any(flag.name == name for flag in found))
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


def _spread(images: list[ImageFacts], kind: str) -> list[Finding]:
    """Backgrounds and light that are too alike. Both from the 8 x 8 colour grid, so only plain differences count."""
    if len(images) < ENOUGH_FOR_SPREAD:
        return []
    grids = np.stack([np.frombuffer(image.signature, np.uint8).reshape(8, 8, 3) for image in images]).astype(float)
    return [finding for finding in (_backgrounds(grids, images, kind), _light(grids), _softness(images)) if finding]


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
