"""Writes assets/starter/samples: three small projects as a user would bring them, faults included.

python -m tools.starter.samples
"""

import random
import shutil
from pathlib import Path

from PIL import Image, ImageFilter

from .config import ASSETS
from .subjects import Subject, render, subjects

# What the tagger calls things that it never saw, the character's hair and the eyepatch: left in the captions these
# words would take the place of the trigger.
MISTAKEN = {"character": ["long hair", "bob cut"], "concept": ["sunglasses", "glasses"]}
CREDIT = {
    "character": "Voxel Art by DiceBear (CC0 1.0)",
    "style": "Cutouts by DiceBear (CC0 1.0)",
    "concept": "Open Peeps by Pablo Stanley, remixed by DiceBear (CC0 1.0)",
}
WORDS: dict[str, dict[str, str | list[str]]] = {
    "character": {
        "title": "Zorbi, a voxel character",
        "description": "One character with green twintails, star eyes and freckles, who changes clothes and mood.",
        "defining": ["green hair", "twintails", "light skin", "star eyes", "freckles"],
        "varies": ["expression", "clothes", "background"],
        "avoid": ["other characters", "pictures that do not show the face"],
    },
    "style": {
        "title": "Paper cutouts",
        "description": "Faces cut from coloured paper with torn edges. The subject changes, the paper look stays.",
        "defining": ["torn paper edges", "flat paper colours", "crooked faces"],
        "varies": ["hair", "hair colour", "expression", "background"],
        "avoid": ["photographs", "other drawing styles"],
    },
    "concept": {
        "title": "Eyepatch",
        "description": "A black eyepatch, worn by many different people, so that only the eyepatch is learnt.",
        "defining": ["black patch over one eye", "strap around the head"],
        "varies": ["person", "hair", "skin", "expression", "clothes", "background"],
        "avoid": ["the same person twice in a row", "glasses"],
    },
}
SIZES = (256, 288, 320, 384)


def toml_value(value: str | list[str]) -> str:
    """A string or a list of strings as TOML (no control characters in our words, so quoting is enough)."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "[" + ", ".join(toml_value(one) for one in value) + "]"


def plan(subject: Subject) -> str:
    """plan.toml of the sample project."""
    words = WORDS[subject.kind]
    lines = {
        "name": subject.name, "kind": subject.kind, "trigger": subject.trigger, **words,
        "test_prompts": subject.test_prompts, "bleed_prompts": subject.bleed_prompts,
        "prune_tags": subject.prune_tags + MISTAKEN.get(subject.kind, []),
        "licence": "CC0-1.0", "credit": CREDIT[subject.kind],
    }  # fmt: skip
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in lines.items())


def add_faults(folder: Path, images: list[Image.Image], prefix: str) -> None:
    """The faults that a downloaded folder has: what curation is there to find."""
    first = folder / f"{prefix}_01.png"
    shutil.copy(first, folder / f"{prefix}_01 (copy).png")
    images[1].resize((224, 224), Image.Resampling.LANCZOS).save(folder / f"{prefix}_02_small.jpg", quality=55)
    images[2].filter(ImageFilter.GaussianBlur(7)).save(folder / f"{prefix}_blurry.png", optimize=True)
    images[3].resize((48, 48)).save(folder / f"{prefix}_thumb.png")
    whole = (folder / f"{prefix}_05.png").read_bytes()
    (folder / f"{prefix}_broken.png").write_bytes(whole[: len(whole) // 3])
    (folder / f"{prefix}_empty.png").write_bytes(b"")
    (folder / f"{prefix}_notes.png").write_text("Saved from my drawing folder, tags still to do.\n")


def write(subject: Subject, num_images: int = 24) -> None:
    """One sample project."""
    folder = ASSETS / "samples" / subject.kind
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    (folder / "plan.toml").write_text(plan(subject))
    rng = random.Random(5)
    images = [image for image, _ in render(subject, num_images, max(SIZES), seed=1)]
    images = [image.resize((side, side), Image.Resampling.LANCZOS) for image in images for side in (rng.choice(SIZES),)]
    for index, image in enumerate(images, start=1):
        image.quantize(128, dither=Image.Dither.NONE).convert("RGB").save(
            folder / "images" / f"{subject.name}_{index:02}.png", optimize=True
        )
    add_faults(folder / "images", images, subject.name)


def main() -> None:
    """All three."""
    for name in ("zorbi", "papercut", "eyepatch"):
        write(subjects()[name])


if __name__ == "__main__":
    main()
