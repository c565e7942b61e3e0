"""How well copies are found, and how the search grows.

python -m benchmarks.duplicates [--pictures 8]

Quality: pictures of the starter's generator (needs `pip install dicebear-core dicebear-styles resvg-py`; without them
those of the sample projects), each with one copy made in one of ten ways. All other pairs are no copies: same
character in other clothes, with another face, before another background. `--pictures` of each subject are taken.

Speed: made-up hashes and colour grids, one in twenty a copy, against `imagehash` comparing all pairs and, where it can
be imported, the compiled search of `imagededup`.
"""

import argparse
import hashlib
import io
import random
import sys
import time
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.common import machine, markdown, save
from lora_studio.core import images, paths
from lora_studio.judge import duplicates
from lora_studio.judge.facts import ImageFacts
from lora_studio.judge.measures import measure
from lora_studio.tagger.model import load_model
from lora_studio.vision import same

COUNTS = (1_000, 3_000, 10_000, 30_000)
PAIRWISE_UP_TO = 3_000
COMPILED_UP_TO = 10_000
Picture = Image.Image


def _jpeg(picture: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def _resized(picture: Picture, factor: float) -> Picture:
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)


def _cropped(picture: Picture, chance: random.Random) -> Picture:
    """A part with half of the area or more, its shape up to a third longer or shorter."""
    share = chance.uniform(0.5, 0.92)
    shape = chance.uniform(max(0.72, share), min(1.38, 1 / share))
    width = min(picture.width, round((share * picture.width * picture.height * shape) ** 0.5))
    height = min(picture.height, round((share * picture.width * picture.height / shape) ** 0.5))
    left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


def _mirrored(picture: Picture) -> Picture:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


WAYS = {
    "resized to 35 - 90 %": lambda picture, chance: _resized(picture, chance.uniform(0.35, 0.9)),
    "JPEG 25 - 80": lambda picture, chance: _jpeg(picture, chance.randint(25, 80)),
    "mirrored": lambda picture, chance: _mirrored(picture),
    "mirrored, smaller, JPEG 50": lambda picture, chance: _jpeg(_resized(_mirrored(picture), 0.65), 50),
    "cropped to 50 - 92 %": _cropped,
    "cropped, JPEG 60": lambda picture, chance: _jpeg(_cropped(picture, chance), 60),
    "cropped and enlarged": lambda picture, chance: _resized(_cropped(picture, chance), 1.5),
    "brightness 10 %": lambda picture, chance: ImageEnhance.Brightness(picture).enhance(chance.choice([0.9, 1.1])),
    "contrast 10 %": lambda picture, chance: ImageEnhance.Contrast(picture).enhance(chance.choice([0.9, 1.1])),
    "saturation 20 %": lambda picture, chance: ImageEnhance.Color(picture).enhance(chance.choice([0.8, 1.2])),
}


def originals(count: int) -> list[Picture]:
    """`count` different pictures of each of the generator's subjects, or the good ones of the sample projects."""
    try:
        from tools.starter.subjects import render, subjects

        found = []
        for subject in subjects().values():
            by_tags = {tuple(tags): picture for picture, tags in render(subject, 3 * count, 384, 11)}
            found += list(by_tags.values())[:count]
        return found
    except ImportError:
        files = sorted((paths.assets() / "starter" / "samples").glob("*/images/*_[0-9][0-9].png"))
        return [images.decode(file) for file in files]


def facts(pictures: list[Picture]) -> list[ImageFacts]:
    """As the studio knows them after looking."""
    model, found = load_model(), []
    for start in range(0, len(pictures), 32):
        some = pictures[start : start + 32]
        for picture, vector in zip(some, model.embed_images(some), strict=True):
            known = measure(np.asarray(picture))
            digest = hashlib.sha256(picture.tobytes()).hexdigest()
            found.append(ImageFacts(len(found) + 1, *picture.size, known.sharpness, known.phash, known.signature,
                                    digest, embedding=vector))  # fmt: skip
    return found


def quality(count: int) -> tuple[list[list[str]], str]:
    """Rows of the table by way of copying, and a sentence on all of it."""
    chance, whole = random.Random(0), originals(count)
    ways = [list(WAYS)[place % len(WAYS)] for place in range(len(whole))]
    copies = [WAYS[way](picture, chance) for way, picture in zip(ways, whole, strict=True)]
    known = facts(whole + copies)
    thumbs = [np.asarray(Image.open(io.BytesIO(images.thumbnail(one))).convert("RGB")) for one in whole + copies]
    likely = duplicates.candidates(known)
    begun = time.process_time()
    verdicts = {
        (known[one].sha256, known[other].sha256): same.relation(thumbs[one], thumbs[other]) or ""
        for one, other in likely
    }
    each = (time.process_time() - begun) / len(likely) * 1000
    truth = {(place + 1, len(whole) + place + 1): way for place, way in enumerate(ways)}
    rows, sentences = [], []
    for name, pairs in (("looked at closely", verdicts), ("hash and colours alone", {})):
        said = set()
        for group in duplicates.groups(known, pairs):
            members = sorted([group.best, *(member.id for member in group.members)])
            said |= {(one, other) for one in members for other in members if one < other}
        right = said & set(truth)
        hits = Counter(truth[pair] for pair in right)
        if pairs:
            proposed = {(one + 1, other + 1) for one, other in likely}
            put_forward = Counter(way for pair, way in truth.items() if pair in proposed)
            of = Counter(ways)
            rows = [[way, of[way], f"{put_forward[way] / of[way]:.3f}", f"{hits[way] / of[way]:.3f}"] for way in WAYS]
        sentences.append(
            f"{name}: precision {len(right) / max(1, len(said)):.3f} ({len(said) - len(right)} wrong of {len(said)}), "
            f"recall {len(right) / len(truth):.3f} ({len(truth) - len(right)} missed of {len(truth)})"
        )
    sentences.append(
        f"{len(likely)} pairs were looked at, {len(likely) / len(known):.1f} for each picture, "
        f"{each:.0f} ms of processor time each"
    )
    return rows, "; ".join(sentences)


def made_up(count: int) -> list[ImageFacts]:
    """`count` pictures' facts, one in twenty a copy of another."""
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 256, (count, 3, 3, 3)).astype(np.float32)
    weights = np.stack([np.interp(np.linspace(0, 2, 8), [0, 1, 2], row) for row in np.eye(3)], axis=1)
    grids = np.einsum("ia,nabc,jb->nijc", weights, corners, weights).round().astype(np.uint8)
    found = [
        ImageFacts(n, 512, 512, 0.1, int(generator.integers(2**63)), grid.tobytes(), f"{n:064x}")
        for n, grid in enumerate(grids)
    ]
    for n in range(0, count - 1, 20):
        bits = int(sum(1 << int(bit) for bit in generator.choice(64, 3, replace=False)))
        found[n + 1] = replace(found[n + 1], phash=found[n].phash ^ bits, signature=found[n].signature)
    return found


def speed(count: int) -> dict[str, float]:
    """Seconds of processor time of each search over `count` hashes: other work on the machine does not count."""
    known, took = made_up(count), {}
    begun = time.process_time()
    groups = duplicates.groups(known)
    took["groups"] = time.process_time() - begun
    assert len(groups) >= (count // 20) * 0.99, "copies were missed"
    begun = time.process_time()
    duplicates.candidates(known)
    took["candidates"] = time.process_time() - begun
    if count <= PAIRWISE_UP_TO:
        took["imagehash"] = _imagehash(known)
    seconds = _imagededup(known) if count <= COMPILED_UP_TO else None
    return took if seconds is None else {**took, "imagededup": seconds}


def _imagehash(known: list[ImageFacts]) -> float:
    import imagehash

    hashes = [imagehash.hex_to_hash(f"{image.phash:016x}") for image in known]
    begun = time.process_time()
    sum(one - other <= 6 for place, one in enumerate(hashes) for other in hashes[place + 1 :])
    return time.process_time() - begun


def _imagededup(known: list[ImageFacts]) -> float | None:
    """Its compiled search called directly, in one process: the package itself needs torchvision to be imported."""
    try:
        from imagededup.handlers.search.brute_force_cython import BruteForceCython
    except ImportError as error:
        print(f"imagededup is left out: {error}", file=sys.stderr)
        return None
    hashes = {str(image.id): f"{image.phash:016x}" for image in known}
    begun = time.process_time()
    search = BruteForceCython(hashes, lambda one, other: (int(one, 16) ^ int(other, 16)).bit_count())
    for value in hashes.values():
        search.search(value, 6)
    return time.process_time() - begun


def main() -> None:
    """Measure and write results/duplicates.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=16)
    wanted = parser.parse_args()
    cv2.setNumThreads(1)
    about = machine()
    rows, sentence = quality(wanted.pictures)
    times = {count: speed(count) for count in COUNTS}
    names = [
        name
        for name in ("groups", "candidates", "imagehash", "imagededup")
        if any(name in one for one in times.values())
    ]
    table = []
    for count, took in times.items():
        shown = [f"{took[name]:.2f} s" if name in took else "" for name in names]
        if "imagehash" not in took:  # grows with the square
            last = times[PAIRWISE_UP_TO]["imagehash"] * (count / PAIRWISE_UP_TO) ** 2
            shown[names.index("imagehash")] = f"about {last:.0f} s (from {PAIRWISE_UP_TO})"
        else:
            last = took["imagehash"]
        ratios = [
            f"{last / took['groups']:.0f}x",
            f"{took['imagededup'] / took['groups']:.1f}x" if "imagededup" in took else "",
        ]
        table.append([count, *shown, *ratios])
    head = ["hashes", *names, "groups against imagehash", "against imagededup"]
    text = (
        f"Quality. {sentence}.\n\n{markdown(['way of copying', 'copies', 'put forward', 'recall'], rows)}\n\n"
        "Speed. `groups` puts together what hash and colour grid tell, mirrored copies too; `candidates` adds the "
        f"search for parts. The other two compare hashes alone. Processor time, one thread.\n\n{markdown(head, table)}"
    )
    save("duplicates", {"machine": about, "quality": rows, "sentence": sentence, "speed": times}, text)


if __name__ == "__main__":
    main()
