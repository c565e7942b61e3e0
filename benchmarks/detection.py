"""How well does the look at each picture see what is wrong with it? Known damage, and who is flagged.

    python -m benchmarks.detection                    # the samples, and 60 more drawings where dicebear is installed
    python -m benchmarks.detection --photos FOLDER    # photographs beside them

Of a set every sixth picture is damaged in one way, six times over, until each was damaged once; the others stay as they
are. Recall is the share of damaged ones that get the flag; precision the share of those flagged that are damaged.
Photographs do not ship: the results are for those in the wheels of scikit-image, scikit-learn and matplotlib, in
face_recognition's source and in Debian's opencv-doc, those above 768 pixels made smaller.
"""

import argparse
import hashlib
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.common import ROOT, machine, markdown, save
from lora_studio.core import images as pictures
from lora_studio.judge import flags
from lora_studio.judge.facts import ImageFacts
from lora_studio.judge.measures import measure
from lora_studio.vision import faces, subject, text

EVERY = 6
PHOTO_SIDE = 768
SAMPLES = ROOT / "assets" / "starter" / "samples"
PLANTED = ("copy", "_small", "_blurry", "_thumb")
MATERIAL = ("chess", "scenetext_", "text", "mask", "pic", "gradient", "clock", "detect_blob", "templ", "digits", "lfw")
"""Files of the packages that are no pictures of anything, or known to be spoilt."""
LETTERED = ("box", "imageText", "page", "scenetext", "sudoku", "cards", "notes", "LinuxLogo", "opencv", "stuff",
            "home.png", "board", "ela", "license", "ml.")  # fmt: skip
"""Photographs with true lettering: left out where lettering is judged."""
FACES = {"astronaut.png": 1, "basketball1.png": 2, "basketball2.png": 2, "biden.jpg": 1, "camera.png": 1,
         "grace_hopper.jpg": 1, "messi5.jpg": 1, "obama.jpg": 1, "obama2.jpg": 1, "obama3.jpg": 1,
         "obama_partial_face.jpg": 1, "obama_partial_face2.jpg": 1}  # fmt: skip
WORDS = ("© studio 2024", "sample picture", "www.example.org", "DO NOT COPY", "Preview only")

Picture = Image.Image
Damages = dict[str, tuple[str, Callable[[Picture, int], Picture]]]
"""Name -> the flag it should get, and what does it: a picture and a seed give the damaged one."""


def blur(share: float) -> Callable[[Picture, int], Picture]:
    """Gaussian blur, its deviation a share of the longer side."""
    return lambda image, seed: image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


def jpeg(quality: int, scale: float = 1.0) -> Callable[[Picture, int], Picture]:
    """Saved as JPEG, then resized."""

    def damage(image: Picture, seed: int) -> Picture:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        saved = Image.open(buffer).convert("RGB")
        size = round(saved.width * scale), round(saved.height * scale)
        return saved if scale == 1 else saved.resize(size, Image.Resampling.LANCZOS)

    return damage


def shrunk(side: int) -> Callable[[Picture, int], Picture]:
    """Made so small that its longer side is `side`."""
    return lambda image, seed: image.resize(
        (max(16, round(image.width * side / max(image.size))), max(16, round(image.height * side / max(image.size))))
    )


def levels(low: float, high: float) -> Callable[[Picture, int], Picture]:
    """Black becomes `low` and white `high`, of 1."""
    return lambda image, seed: image.point(
        [round(255 * (low + (high - low) * level / 255)) for level in range(256)] * 3
    )


def bars(share: float, sides: bool) -> Callable[[Picture, int], Picture]:
    """Bars of black or white above and below, or at the sides."""

    def damage(image: Picture, seed: int) -> Picture:
        edge = round(share * (image.width if sides else image.height))
        size = (image.width + 2 * edge, image.height) if sides else (image.width, image.height + 2 * edge)
        page = Image.new("RGB", size, random.Random(seed).choice(["black", "white"]))
        page.paste(image, (edge, 0) if sides else (0, edge))
        return page

    return damage


def lettered(kind: str) -> Callable[[Picture, int], Picture]:
    """A signature in the corner, a faint mark across the middle, faint marks aslant all over, or a subtitle."""

    def damage(image: Picture, seed: int) -> Picture:
        dice, (width, height) = random.Random(seed), image.size
        words, light = dice.choice(WORDS), np.asarray(image.convert("L"))
        size = {"corner": height // 24, "faint": width // 10, "aslant": width // 18, "subtitle": width // 14}[kind]
        font = ImageFont.load_default(max(12, size))
        length = ImageDraw.Draw(image).textlength(words, font)
        layer = Image.new("RGBA", (2 * width, 2 * height), (0, 0, 0, 0))
        pen = ImageDraw.Draw(layer)
        if kind == "aslant":
            ink = (255, 255, 255, 120) if light.mean() < 150 else (20, 20, 20, 120)
            for row, y in enumerate(range(0, 2 * height, 4 * max(12, size))):
                for x in range(-(row % 2) * int(length), 2 * width, int(length * 1.5)):
                    pen.text((x, y), words, font=font, fill=ink)
            layer = layer.rotate(dice.choice((30, 45)), resample=Image.Resampling.BICUBIC)
            layer = layer.crop((width // 2, height // 2, width // 2 + width, height // 2 + height))
        else:
            left = width - length - 8 if kind == "corner" else (width - length) / 2
            top = height * 0.45 if kind == "faint" else height - max(12, size) * 1.6
            behind = light[int(top) : int(top) + size + 4, max(0, int(left)) : int(left + length)]
            ink = (255, 255, 255) if behind.size == 0 or behind.mean() < 140 else (20, 20, 20)
            outline = {"stroke_width": 1, "stroke_fill": (0, 0, 0, 255)} if kind == "subtitle" else {}
            fill = (255, 255, 255, 255) if kind == "subtitle" else (*ink, 110 if kind == "faint" else 230)
            pen.text((left, top), words, font=font, fill=fill, **outline)
            layer = layer.crop((0, 0, width, height))
        return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")

    return damage


DAMAGE: Damages = {
    "blur of 0.5 % of the side": ("blurred", blur(0.005)),
    "blur of 1 %": ("blurred", blur(0.01)),
    "blur of 2 %": ("blurred", blur(0.02)),
    "shrunk to 64 pixels": ("too_small", shrunk(64)),
    "light to a quarter": ("dark", levels(0, 0.25)),
    "light to a third": ("dark", levels(0, 0.33)),
    "bleached to the upper third": ("bright", levels(0.67, 1)),
    "contrast to a fifth": ("flat", levels(0.4, 0.6)),
    "JPEG 50": ("blocky", jpeg(50)),
    "JPEG 20": ("blocky", jpeg(20)),
    "JPEG 10": ("blocky", jpeg(10)),
    "JPEG 10, then resized to 60 %": ("blocky", jpeg(10, 0.6)),
    "JPEG 10, then resized to 150 %": ("blocky", jpeg(10, 1.5)),
    "bars above and below, 10 %": ("borders", bars(0.1, False)),
    "bars at the sides, 3 %": ("borders", bars(0.03, True)),
    "signature in the corner": ("lettering", lettered("corner")),
    "faint mark in the middle": ("lettering", lettered("faint")),
    "faint marks aslant": ("lettering", lettered("aslant")),
    "subtitle": ("lettering", lettered("subtitle")),
}


def facts(image: Picture, number: int, letters: bool) -> ImageFacts:
    """What is known of a picture after a look at it (faces apart)."""
    rgb = np.asarray(image)
    seen = measure(rgb)
    return ImageFacts(
        number, *image.size, seen.sharpness, seen.phash, seen.signature, hashlib.sha256(rgb.tobytes()).hexdigest(),
        measures=seen, lettering=text.find(rgb).share if letters else 0.0,
    )  # fmt: skip


def rates(
    sets: list[list[Picture]], damages: dict[str, tuple[str, Callable[[Picture, int], Picture]]]
) -> dict[str, Any]:
    """name of the damage -> {"flag", "pictures", "recall", "precision"} over all sets."""
    known = [[facts(image, number, True) for number, image in enumerate(one)] for one in sets]
    found: dict[str, Any] = {}
    for name, (flag, damage) in damages.items():
        hits = wrong = total = 0
        for one, clean in zip(sets, known, strict=True):
            bad = [facts(damage(image, number), number, flag == "lettering") for number, image in enumerate(one)]
            for offset in range(EVERY):
                damaged = {number for number in range(len(one)) if number % EVERY == offset}
                mixed = [bad[number] if number in damaged else clean[number] for number in range(len(one))]
                said = {
                    id for id, many in flags.per_image(mixed, "style").items() if flag in {one.name for one in many}
                }
                hits, wrong, total = hits + len(said & damaged), wrong + len(said - damaged), total + len(damaged)
        # each undamaged picture was looked at five times as often as each damaged one: that is what a real set is like
        found[name] = {
            "flag": flag, "pictures": total, "recall": hits / total,
            "precision": hits / (hits + wrong) if hits + wrong else None,
        }  # fmt: skip
    return found


def samples(each: int | None = None) -> list[list[Picture]]:
    """The good pictures of the three sample projects."""
    found = []
    for folder in sorted(SAMPLES.iterdir()):
        names = [path for path in sorted((folder / "images").iterdir()) if not any(bad in path.stem for bad in PLANTED)]
        good = []
        for path in names:
            try:
                good.append(pictures.decode(path))
            except pictures.ImageError:
                continue  # damaged on purpose
        found.append(good[:each])
    return found


def generated(each: int, size: int = 384) -> list[list[Picture]]:
    """Further drawings, a set for each subject of the starter's generator; none where dicebear is not installed."""
    try:
        from tools.starter.subjects import render, subjects

        return [[image for image, _ in render(one, each, size, seed=11)] for one in list(subjects().values())[3:]]
    except ImportError:
        return []


def outlines(count: int, size: int = 384) -> Iterator[tuple[Picture, np.ndarray]]:
    """Drawn figures with their true outline: what stays when the background changes."""
    from tools.starter.data import base_attributes, draw

    stream = base_attributes(3)
    for number in range(count):
        drawn = next(stream)
        one, other = (
            np.asarray(draw({**drawn, "background": f"{colour} background"}, size, random.Random(number))).astype(int)
            for colour in ("blue", "orange")
        )
        yield Image.fromarray(one.astype(np.uint8)), np.abs(one - other).max(axis=2) < 24


def photographs(folder: Path) -> dict[str, Picture]:
    """Those of the folder that are pictures of something, made smaller to 768 pixels where they are larger."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(MATERIAL):
            continue
        try:
            image = pictures.decode(path)
        except pictures.ImageError:
            continue
        if min(image.size) >= 200:
            image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
            found[path.name] = image
    return found


def faces_found(photos: dict[str, Picture]) -> dict[str, int]:
    """Of the photographs: true faces, those found, and what else was taken for one (by the count in each picture)."""
    found = {name: len(faces.find(np.asarray(image))) for name, image in photos.items()}
    true = sum(FACES.get(name, 0) for name in photos)
    hits = sum(min(count, FACES.get(name, 0)) for name, count in found.items())
    return {"pictures": len(photos), "faces": true, "found": hits, "others": sum(found.values()) - hits}


def speed(image: Picture) -> dict[str, float]:
    """Milliseconds of processor time for a picture of one megapixel, on one thread."""
    rgb = np.asarray(image.resize((1152, 896)))
    looks = {"measures": measure, "faces": faces.find, "lettering": text.find, "outline": subject.mask}
    found = {}
    for name, look in looks.items():
        times = []
        for _ in range(3):
            begin = time.process_time()
            look(rgb)
            times.append(time.process_time() - begin)
        found[name] = round(min(times) * 1000, 1)
    return found


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder with photographs")
    parser.add_argument(
        "--each", type=int, default=6, help="drawings for each generated subject, and half of those of a sample"
    )
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    before = machine()
    drawn = [*samples(2 * chosen.each), *generated(chosen.each)]
    result: dict[str, Any] = {"machine": before, "drawings": rates(drawn, DAMAGE)}
    flat = [image for one in drawn for image in one]
    result["drawn_faces"] = {"pictures": len(flat), "found": sum(bool(faces.find(np.asarray(one))) for one in flat)}
    photos = photographs(chosen.photos) if chosen.photos else {}
    if photos:
        unlettered = [image for name, image in photos.items() if not name.startswith(LETTERED)]
        result["photos"] = rates([unlettered], DAMAGE)
        result["faces"] = faces_found(photos)
    if len(drawn) > 3:
        shares = []
        for image, true in outlines(40):
            mask = subject.mask(np.asarray(image)) > 0
            shares.append(float((mask & true).sum() / max(1, (mask | true).sum())))
        result["outline"] = {"pictures": 40, "median": float(np.median(shares)), "worst": min(shares)}
    result["speed"] = speed(next(iter(photos.values())) if photos else flat[0])
    save("detection", result, report(result))


def report(result: dict[str, Any]) -> str:
    """The tables and what is to be said of them."""
    kinds = [kind for kind in ("drawings", "photos") if kind in result]
    header = ["damage", "flag", *(f"{kind}: {what}" for kind in kinds for what in ("pictures", "recall", "precision"))]
    rows = []
    for name, (flag, _) in DAMAGE.items():
        cells: list[Any] = []
        for kind in kinds:
            one = result[kind][name]
            precision = "-" if one["precision"] is None else f"{one['precision']:.2f}"
            cells += [one["pictures"], f"{one['recall']:.2f}", precision]
        rows.append([name, flag, *cells])
    lines = [markdown(header, rows)]
    drawn = result["drawn_faces"]
    lines.append(f"Drawn faces: found in {drawn['found']} of {drawn['pictures']} drawings, all of which show one.")
    if "faces" in result:
        one = result["faces"]
        lines.append(
            f"Photographed faces: {one['found']} of {one['faces']} found in {one['pictures']} pictures, and "
            f"{one['others']} other places taken for one (by the count in each picture)."
        )
    if "outline" in result:
        one = result["outline"]
        lines.append(
            f"Outline of drawn figures before a plain ground, shared area over joint area: median {one['median']:.2f}, "
            f"worst {one['worst']:.2f} of {one['pictures']}."
        )
    times = ", ".join(f"{name} {value}" for name, value in result["speed"].items())
    lines.append(f"Milliseconds for a picture of one megapixel, one thread: {times}.")
    lines.append(
        "The thresholds for light, blocks, faces and lettering were chosen with the same photographs at hand; blur is "
        "judged against the set, and these photographs have nothing in common: a set of one technique comes nearer "
        "to the drawings."
    )
    lines.append("Near-duplicates are measured by `benchmarks.duplicates`.")
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
