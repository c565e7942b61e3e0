"""What the base has never seen: subjects to teach it by LoRA. Used by samples.py and benchmarks/quality.py.

    subjects() -> dict[str, Subject]
    render(subject: Subject, n: int, size: int, seed: int) -> list[tuple[PIL.Image.Image, list[str]]]

`render` gives pictures with their true tags, without the trigger. Put the trigger first and leave out
`subject.prune_tags` to get a training caption: `", ".join(subject.caption(tags))`.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from .data import BACKGROUNDS, HAIR_COLOURS, STYLES, Attributes, draw, draw_attributes, frame, tags_of


@dataclass(frozen=True)
class Subject:
    """One thing to teach."""

    name: str
    kind: Literal["character", "style", "concept"]
    trigger: str
    style: str
    """Tag of the style that it is drawn in; for a style the trigger's own tag, unknown to the base."""
    fixed: Attributes = field(default_factory=dict)
    """What never changes: the character's looks."""
    extra: dict[str, Any] = field(default_factory=dict)
    """DiceBear options that draw the thing itself."""
    hides: tuple[str, ...] = ()
    """Categories that cannot be seen on it, so that they are not tagged."""

    @property
    def prune_tags(self) -> list[str]:
        """Tags that the trigger shall stand for."""
        return list(self.fixed.values()) if self.kind == "character" else []

    def caption(self, tags: list[str]) -> list[str]:
        """The tags of a training caption: trigger first, without what it stands for."""
        return [self.trigger, *(tag for tag in tags if tag not in self.prune_tags)]

    @property
    def test_prompts(self) -> list[str]:
        """Prompts that shall show it, in wordings that differ from each other."""
        looks = {"character": ["smile, red shirt, blue background", "frown, black shirt, yellow background",
                               "open mouth, white shirt, pink background", "smile, purple shirt, white background"],
                 "concept": ["blue hair, short hair, light skin, smile, red shirt, yellow background",
                             "red hair, mohawk, dark skin, frown, white shirt, blue background",
                             "green hair, long hair, tan skin, smile, black shirt, pink background",
                             "blonde hair, bob cut, light skin, open mouth, blue shirt, green background"],
                 "style": ["blue hair, short hair, smile, yellow background", "red hair, long hair, pink background",
                           "green hair, curly hair, open mouth, white background",
                           "black hair, spiky hair, smile, blue background"]}[self.kind]  # fmt: skip
        lead = self.trigger if self.kind == "style" else f"{self.trigger}, {self.style}"
        return [f"{lead}, {look}" for look in looks]

    @property
    def bleed_prompts(self) -> list[str]:
        """Prompts without the trigger: the adapter must leave their pictures as they are."""
        near = self.style if self.style in STYLES else "ink style"
        other = next(style for style in STYLES if style != near)
        return [
            f"{near}, brown hair, short hair, dark skin, smile, blue shirt, green background",
            f"{near}, blonde hair, bob cut, light skin, frown, red shirt, white background",
            f"{other}, black hair, long hair, tan skin, smile, yellow shirt, pink background",
            f"{other}, pink hair, short hair, light skin, open mouth, black shirt, grey background",
        ]


def _character(name: str, style: str, colour: str, hair: str, skin: str, **more: str) -> Subject:
    return Subject(name, "character", name, style, {"hair colour": colour, "hair": hair, "skin": skin, **more})


_ALL = (
    _character("zorbi", "voxel art", "green hair", "twintails", "light skin", eyes="star eyes", marks="freckles"),
    Subject("papercut", "style", "paper cutout", "paper cutout"),
    Subject("eyepatch", "concept", "eyepatch", "comic style",
            extra={"accessoriesVariant": "eyepatch", "accessoriesProbability": 100}, hides=("eyewear",)),
    _character("kelmo", "pixel art", "pink hair", "mohawk", "dark skin", eyewear="sunglasses"),
    _character("luvra", "ink style", "blue hair", "double bun", "tan skin", eyewear="glasses"),
    _character("tabo", "comic style", "purple hair", "curly hair", "dark skin", eyewear="glasses"),
    _character("mirep", "comic style", "red hair", "hair bun", "light skin"),
    _character("oxani", "pixel art", "purple hair", "long hair", "tan skin", eyewear="glasses"),
    _character("fendu", "voxel art", "blue hair", "spiky hair", "dark skin", eyewear="sunglasses"),
    Subject("lineart", "style", "line art", "line art"),
    Subject("bunnyears", "concept", "bunny ears", "voxel art",
            extra={"topVariant": "bunnyEars", "topProbability": 100}, hides=("hair", "hair colour")),
    Subject("facemask", "concept", "face mask", "comic style",
            extra={"maskVariant": "medicalMask", "maskProbability": 100, "accessoriesProbability": 0},
            hides=("expression", "eyewear")),
    Subject("visor", "concept", "visor", "voxel art",
            extra={"glassesVariant": "visor", "glassesProbability": 100}, hides=("eyewear", "eyes")),
)  # fmt: skip

EXCLUDED = {(one.fixed["hair colour"], one.fixed["hair"]) for one in _ALL if one.kind == "character"}
"""(hair colour, hair) that the base never sees together, in any style."""

CUTOUT_HAIR = {"short hair": "fringe", "long hair": "long", "curly hair": "curls", "spiky hair": "tufts"}
CUTOUT_MOUTH = {"smile": "smile", "open mouth": "gasp"}
PAPERS = ("e2a63d", "e07856", "7fb3d5", "93b98a", "e8b4c0", "ab96d1")


def subjects() -> dict[str, Subject]:
    """Every held-out subject by name."""
    return {one.name: one for one in _ALL}


def _cutout(rng: random.Random, size: int) -> tuple[Image.Image, list[str]]:
    colour, hair = rng.choice(list(HAIR_COLOURS)), rng.choice(list(CUTOUT_HAIR))
    mouth, background = rng.choice(list(CUTOUT_MOUTH)), rng.choice(list(BACKGROUNDS))
    options = {
        "seed": str(rng.random()), "backgroundColor": "ffffff00", "hairVariant": CUTOUT_HAIR[hair],
        "hairProbability": 100, "paperHairColor": HAIR_COLOURS[colour], "mouthVariant": CUTOUT_MOUTH[mouth],
        "paperFaceColor": rng.choice(PAPERS),
    }  # fmt: skip
    image = frame("cutouts", options, BACKGROUNDS[background], (0.0, 0.0, 1.0), size, rng)
    return image, ["paper cutout", colour, hair, mouth, background]


def _line_art(rng: random.Random, size: int) -> tuple[Image.Image, list[str]]:
    background, glasses = rng.choice(list(BACKGROUNDS)), rng.random() < 0.4
    options = {
        "seed": str(rng.random()), "beardProbability": 0, "gestureProbability": 0, "glassesVariant": "variant01",
        "glassesProbability": 100 if glasses else 0,
    }  # fmt: skip
    image = frame("notionists", options, BACKGROUNDS[background], (0.0, 0.0, 1.0), size, rng)
    return image, ["line art", "black hair", *(["glasses"] if glasses else []), background]


_OTHER_STYLES = {"paper cutout": _cutout, "line art": _line_art}


def render(subject: Subject, n: int, size: int, seed: int) -> list[tuple[Image.Image, list[str]]]:
    """n pictures of the subject with their true tags (without the trigger of a character or concept)."""
    rng = random.Random(f"{subject.name} {seed}")
    if subject.style in _OTHER_STYLES:
        return [_OTHER_STYLES[subject.style](rng, size) for _ in range(n)]
    found = []
    while len(found) < n:
        attributes = draw_attributes(rng, STYLES[subject.style], subject.fixed)
        for category in ("eyewear", "eyes", "marks"):
            if subject.kind == "character" and category not in subject.fixed:
                attributes.pop(category, None)
        for category in subject.hides:
            attributes.pop(category, None)
        if subject.kind != "character" and (attributes.get("hair colour"), attributes.get("hair")) in EXCLUDED:
            continue
        full = {"hair": "short hair", "hair colour": "brown hair", "expression": "smile", **attributes}
        found.append((draw(full, size, rng, subject.extra), tags_of(attributes)))
    return found
