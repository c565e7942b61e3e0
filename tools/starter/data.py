"""Draws tagged pictures from DiceBear's CC0 styles. The same seed always gives the same pictures.

    python -m tools.starter.data            # renders the training and the held-out images into the work folder

A picture is a dict from category to tag ("hair colour" -> "blue hair"); the style says how each tag is drawn.
Every tag is drawn in exactly one way per style and large enough to be seen at 64 px: that is what lets a small
network learn what the words mean.
"""

import io
import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .config import CONFIG, WORK

Attributes = dict[str, str]

HAIR_COLOURS = {
    "black hair": "241c1c", "brown hair": "5e351a", "blonde hair": "ecc95c", "red hair": "c0281c",
    "pink hair": "f28cb4", "blue hair": "3f7fd6", "green hair": "3aa655", "purple hair": "7a4fc0",
}  # fmt: skip
SKINS = {"light skin": "ffdbb4", "tan skin": "d09258", "dark skin": "85502c"}
SHIRTS = {
    "red shirt": "d11141", "blue shirt": "3b6fd4", "green shirt": "2f9e5a", "yellow shirt": "ffd23f",
    "purple shirt": "7b4fc9", "black shirt": "2b2b2b", "white shirt": "f4f4f4",
}  # fmt: skip
BACKGROUNDS = {
    "white background": "ffffff", "blue background": "8ecbf0", "green background": "9fdc8f",
    "pink background": "ffadc4", "purple background": "bfa3f0", "yellow background": "ffe27a",
    "orange background": "ffb066", "grey background": "b4b4b4",
}  # fmt: skip
CATEGORIES = (
    "style", "hair colour", "hair", "skin", "expression", "eyes", "eyewear", "marks", "clothes", "background",
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How one DiceBear style draws our tags."""

    tag: str
    file: str
    window: tuple[float, float, float]
    """The square that is shown: left, top, side, as shares of the canvas."""
    fixed: dict[str, Any]
    hair: dict[str, dict[str, Any]]
    expression: dict[str, dict[str, Any]]
    eyewear: dict[str, dict[str, Any]]
    colours: dict[str, str]
    """category -> name of the DiceBear colour option."""
    eyes: dict[str, dict[str, Any]] = field(default_factory=dict)
    marks: dict[str, dict[str, Any]] = field(default_factory=dict)
    jitter: bool = True


def variants(component: str, table: dict[str, str]) -> dict[str, dict[str, Any]]:
    """{tag: variant} -> {tag: DiceBear options that draw it}."""
    return {tag: {f"{component}Variant": name, f"{component}Probability": 100} for tag, name in table.items()}


VOXEL = Style(
    "voxel art", "voxel-art", (0.06, 0.0, 0.84),
    {"animationVariant": "none", "backgroundColor": "ffffff00", "glassesProbability": 0, "beardProbability": 0,
     "cheeksProbability": 0, "outfitVariant": "plain", "eyesVariant": "open", "eyebrowsVariant": "flat",
     "noseVariant": "block", "pantsColor": "2f4160", "shoesColor": "343a40", "hatColor": "f2f2f2",
     "topProbability": 100, "eyebrowsProbability": 100},
    variants("top", {"short hair": "short", "spiky hair": "spiky", "mohawk": "mohawk", "double bun": "buns",
                     "long hair": "longStraight", "bob cut": "bob", "twintails": "twinTails"}),
    {"smile": {"mouthVariant": "wideSmile"}, "open mouth": {"mouthVariant": "laugh"},
     "frown": {"mouthVariant": "frown", "eyebrowsVariant": "angry"}},
    variants("glasses", {"glasses": "square", "sunglasses": "shades"}),
    {"hair colour": "hairColor", "skin": "skinColor", "clothes": "shirtColor"},
    eyes={"closed eyes": {"eyesVariant": "closed"}, "star eyes": {"eyesVariant": "star"}},
    marks=variants("cheeks", {"freckles": "freckles"}),
)  # fmt: skip
PIXEL = Style(
    "pixel art", "pixel-art", (0.0, 0.0, 1.0),
    {"glassesProbability": 0, "beardProbability": 0, "hatProbability": 0, "accessoriesProbability": 0,
     "clothesVariant": "variant12", "eyesVariant": "variant01", "mouthColor": "c0392b", "eyesColor": "5b7c8b",
     "glassesColor": "191919", "hairProbability": 100},
    variants("hair", {"short hair": "short17", "long hair": "long13", "twintails": "long18", "mohawk": "short05",
                      "hair bun": "long05", "curly hair": "short11", "bob cut": "long21", "double bun": "long14"}),
    {"smile": {"mouthVariant": "happy09"}, "open mouth": {"mouthVariant": "happy01"},
     "frown": {"mouthVariant": "sad01"}},
    variants("glasses", {"glasses": "light06", "sunglasses": "dark03"}),
    {"hair colour": "hairColor", "skin": "skinColor", "clothes": "clothingColor"},
    jitter=False,
)  # fmt: skip
COMIC = Style(
    "comic style", "open-peeps", (0.02, 0.0, 0.98),
    {"accessoriesProbability": 0, "facialHairProbability": 0, "maskProbability": 0},
    variants("head", {"short hair": "grayShort", "long hair": "bangs", "hair bun": "grayBun", "mohawk": "mohawk",
                      "curly hair": "mediumBangs2", "spiky hair": "short4", "bob cut": "grayMedium"}),
    {"smile": {"expressionVariant": "smileBig"}, "open mouth": {"expressionVariant": "explaining"},
     "frown": {"expressionVariant": "veryAngry"}},
    variants("accessories", {"glasses": "glasses3", "sunglasses": "sunglasses"}),
    {"hair colour": "headContrastColor", "skin": "skinColor", "clothes": "clothingColor"},
)  # fmt: skip
INK = Style(
    "ink style", "lorelei", (0.04, 0.01, 0.92),
    {"beardProbability": 0, "earringsProbability": 0, "frecklesProbability": 0, "glassesProbability": 0,
     "hairAccessoriesProbability": 0, "headVariant": "variant01", "eyebrowsVariant": "variant01",
     "eyesVariant": "variant09", "noseVariant": "variant01", "hairProbability": 100},
    variants("hair", {"short hair": "variant08", "long hair": "variant15", "double bun": "variant26",
                      "mohawk": "variant27", "curly hair": "variant24", "hair bun": "variant45",
                      "spiky hair": "variant04", "bob cut": "variant19"}),
    {"smile": {"mouthVariant": "happy16"}, "open mouth": {"mouthVariant": "sad02"},
     "frown": {"mouthVariant": "sad05", "eyebrowsVariant": "variant13"}},
    variants("glasses", {"glasses": "variant03", "sunglasses": "variant02"}),
    {"hair colour": "hairColor", "skin": "skinColor"},
    eyes={"closed eyes": {"eyesVariant": "variant19"}},
)  # fmt: skip
STYLES = {style.tag: style for style in (VOXEL, PIXEL, COMIC, INK)}
COLOURS = {"hair colour": HAIR_COLOURS, "skin": SKINS, "clothes": SHIRTS, "background": BACKGROUNDS}


def vocabulary() -> list[tuple[str, str]]:
    """(tag, category) of everything that the base pictures show."""
    found: dict[str, str] = dict.fromkeys(STYLES, "style")
    for category in CATEGORIES[1:]:
        for tag in COLOURS.get(category, {}):
            found[tag] = category
        for style in STYLES.values():
            for tag in getattr(style, category, {}) if category not in COLOURS else {}:
                found[tag] = category
    return list(found.items())


def draw_attributes(rng: random.Random, style: Style | None = None, fixed: Attributes | None = None) -> Attributes:
    """Attributes drawn uniformly, so that each tag is as frequent as its neighbours and independent of them."""
    style = style or rng.choice(list(STYLES.values()))
    drawn: Attributes = {"style": style.tag}
    drawn["hair colour"] = rng.choice(list(HAIR_COLOURS))
    drawn["hair"] = rng.choice(list(style.hair))
    drawn["skin"] = rng.choice(list(SKINS))
    drawn["expression"] = rng.choice(list(style.expression))
    if rng.random() < 0.4:
        drawn["eyewear"] = rng.choice(list(style.eyewear))
    if style.eyes and rng.random() < 0.4:
        drawn["eyes"] = rng.choice(list(style.eyes))
    if style.marks and rng.random() < 0.3:
        drawn["marks"] = rng.choice(list(style.marks))
    if "clothes" in style.colours:
        drawn["clothes"] = rng.choice(list(SHIRTS))
    drawn["background"] = rng.choice(list(BACKGROUNDS))
    drawn.update(fixed or {})
    if drawn.get("eyewear") == "sunglasses":
        drawn.pop("eyes", None)  # not to be seen behind them
    return {category: drawn[category] for category in CATEGORIES if category in drawn}


@cache
def definition(file: str) -> Any:
    """The DiceBear style of this name, read once a process."""
    import dicebear_styles
    from dicebear import Style as DiceBearStyle

    return DiceBearStyle(json.loads((Path(next(iter(dicebear_styles.__path__))) / f"{file}.json").read_text()))


def rasterise(file: str, options: dict[str, Any], side: int) -> Image.Image:
    """One DiceBear picture with a transparent background."""
    import resvg_py
    from dicebear import Avatar

    svg = Avatar(definition(file), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def frame(
    file: str, options: dict[str, Any], background: str, window: tuple[float, float, float], size: int,
    rng: random.Random | None = None,
) -> Image.Image:  # fmt: skip
    """The window of the picture on a plain background, moved and scaled a little if `rng` is given."""
    left, top, side = window
    if rng is not None:
        grown = side * rng.uniform(0.97, 1.02)
        left, top, side = left + rng.uniform(-0.01, 0.01), top + rng.uniform(-0.005, 0.01), grown
    whole = rasterise(file, options, round(size / side))
    page = Image.new("RGB", (size, size), f"#{background}")
    page.paste(whole, (-round(left * whole.width), -round(top * whole.width)), whole)
    return page


def options_of(style: Style, attributes: Attributes) -> dict[str, Any]:
    """The DiceBear options that draw these attributes in this style."""
    options: dict[str, Any] = {"seed": "lora-studio", **style.fixed}
    for category in ("hair", "expression", "eyewear", "eyes", "marks"):
        options.update(getattr(style, category).get(attributes.get(category, ""), {}))
    for category, option in style.colours.items():
        if category in attributes:
            options[option] = COLOURS[category][attributes[category]]
    return options


def draw(attributes: Attributes, size: int, rng: random.Random, extra: dict[str, Any] | None = None) -> Image.Image:
    """The picture of these attributes; `extra` are further DiceBear options (a held-out thing)."""
    style = STYLES[attributes["style"]]
    options = {**options_of(style, attributes), **(extra or {})}
    background = BACKGROUNDS[attributes["background"]]
    return frame(style.file, options, background, style.window, size, rng if style.jitter else None)


def tags_of(attributes: Attributes) -> list[str]:
    """Tags in the order of CATEGORIES."""
    return [attributes[category] for category in CATEGORIES if category in attributes]


def base_attributes(seed: int) -> Iterator[Attributes]:
    """An endless stream of attributes, without what the held-out characters are made of."""
    from .subjects import EXCLUDED

    rng = random.Random(seed)
    while True:
        drawn = draw_attributes(rng)
        if (drawn["hair colour"], drawn["hair"]) not in EXCLUDED:
            yield drawn


def _draw_array(job: tuple[Attributes, int, int]) -> np.ndarray:
    attributes, size, seed = job
    return np.asarray(draw(attributes, size, random.Random(seed)))


def generate(num_images: int, seed: int, size: int, workers: int = 2) -> tuple[np.ndarray, list[Attributes]]:
    """(N, size, size, 3) uint8 and the attributes of each image."""
    stream = base_attributes(seed)
    attributes = [next(stream) for _ in range(num_images)]
    jobs = [(one, size, seed * 10_000_019 + index) for index, one in enumerate(attributes)]
    with ProcessPoolExecutor(workers) as pool:
        images = np.stack(list(pool.map(_draw_array, jobs, chunksize=100)))
    return images, attributes


def load(name: str) -> tuple[np.ndarray, list[Attributes]]:
    """A set written by `main`: "train" or "heldout"."""
    return np.load(WORK / f"{name}.npy"), json.loads((WORK / f"{name}.json").read_text())


def main() -> None:
    """Render both sets."""
    WORK.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("heldout", CONFIG.num_heldout, 77), ("train", CONFIG.num_images, CONFIG.seed)):
        images, attributes = generate(count, seed, CONFIG.size)
        np.save(WORK / f"{name}.npy", images)
        (WORK / f"{name}.json").write_text(json.dumps(attributes))
        print(name, images.shape, flush=True)


if __name__ == "__main__":
    main()
