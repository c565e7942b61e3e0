"""A large set: import, looks, search for copies, audit, map, filters, a decision, over 10,000 pictures of a megapixel.

    python -m benchmarks.dataset                          # all of it
    python -m benchmarks.dataset import --pictures 2000   # or look (with the import), or audit (of made-up findings)

The pictures are composed of the samples' art on coloured grounds with noise, saved as JPEG of quality 40 to 95; one in
twenty is a copy of another. They lie in the folder for temporary files (TMPDIR; 0.3 GB for each 1,000 pictures, with
the project) and are removed at the end. Each part runs in a process of its own, so that its memory is its own.

With two quiet cores 10,000 pictures take about 40 minutes: 4 to make them, 5 to import, 30 to look (two thirds of that
for faces), 1 for the rest. `audit` alone takes one minute.
"""

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageFilter

from benchmarks.common import ROOT, machine, markdown, save
from lora_studio.core import images
from lora_studio.core.jobs import JobContext
from lora_studio.core.looks import Looks
from lora_studio.core.project import Arrival, Plan, Project
from lora_studio.judge import aspects, duplicates, layout
from lora_studio.judge.measures import measure
from lora_studio.steps import curation, filters, gathering, look, looking
from lora_studio.steps.importing import WORKERS
from lora_studio.steps.rows import rows

SLUG, RESOLUTION = "many", 1024
SIZES = ((1152, 896), (896, 1152), (1024, 1024), (1216, 832), (832, 1216))
"""Of a megapixel each: usual buckets of SDXL."""
COPY = 20
ALONE = 100
"""Pictures on which each look is timed by itself; decoding is left out."""
DECISIONS = 100
TRIED = (
    "width < 900 and not reject",
    "blur > 0.5 or faces = 0",
    'tag:"red hair" and tag:*view',
    'name:"picture 00*" and lettering < 1%',
    "flag:near* or size > 500kb",
)
Found = dict[str, Any]


# --- pictures ---------------------------------------------------------------------------------------------------------


@cache
def _art() -> list[Image.Image]:
    found = []
    for path in sorted((ROOT / "assets" / "starter" / "samples").glob("*/images/*_[0-9][0-9].png")):
        found.append(images.decode(path))
    return found


@cache
def _noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (1600, 1600, 1)).astype(np.float32)


def compose(number: int) -> Image.Image:
    """The picture of that number, always the same: two or three drawings on a ground of soft colours, and noise."""
    dice = random.Random(number)
    size = dice.choice(SIZES)
    colours = np.random.default_rng(number).integers(0, 256, (dice.choice((2, 4, 6)), 4, 3), np.uint8)
    picture = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
    for _ in range(dice.choice((2, 3))):
        art = dice.choice(_art())
        side = dice.randint(350, 1000)
        art = art.resize((side, side), Image.Resampling.BILINEAR)
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if dice.random() < 0.5 else art
        if dice.random() < 0.5:  # other colours of the same drawing
            art = Image.merge("RGB", dice.sample(art.split(), 3))
        picture.paste(
            art, (dice.randint(-side // 3, size[0] - side // 2), dice.randint(-side // 3, size[1] - side // 2))
        )
    if number % 50 == 7:
        picture = picture.filter(ImageFilter.GaussianBlur(8))
    top, left = dice.randrange(300), dice.randrange(300)
    noise = dice.choice((0, 2, 4, 8)) * _noise()[top : top + size[1], left : left + size[0]]
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def copied(picture: Image.Image, dice: random.Random) -> Image.Image:
    """A smaller, mirrored, cropped or merely saved again one."""
    width, height = picture.size
    match dice.randrange(4):
        case 0:
            return picture.resize((width * 2 // 3, height * 2 // 3))
        case 1:
            return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        case 2:
            return picture.crop((width // 10, height // 10, width * 9 // 10, height * 9 // 10))
    return picture


def caption(number: int) -> str:
    """Eight tags: the trigger, and one for each of what a set should vary."""
    dice = random.Random(number)
    words = [f"{dice.choice(aspects.COLOURS)} {thing}" for thing in ("hair", "eyes", dice.choice(aspects.GARMENTS))]
    words += [dice.choice(list(named)) for named in (aspects.FRAMING, aspects.ANGLE, aspects.EXPRESSION)]
    return ", ".join([SLUG, *words, dice.choice(aspects.PLACES)])


def write(folder: Path, number: int) -> None:
    """One picture and its caption as files."""
    dice = random.Random(-number)
    is_copy = number % COPY == COPY - 1
    picture = copied(compose(number - COPY // 2), dice) if is_copy else compose(number)
    picture.save(folder / f"picture {number:05d}.jpg", quality=dice.choice((40, 60, 75, 85, 90, 95)))
    (folder / f"picture {number:05d}.txt").write_text(caption(number), "utf-8")


def make(folder: Path, count: int) -> None:
    """All of them, on all cores."""
    folder.mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write, folder), range(count), chunksize=20))


def made_up(root: Path, count: int) -> None:
    """A project of `count` pictures with findings drawn by lot in place of files: enough for all that opens none."""
    project, dice = Project.create(root, Plan(name=SLUG, trigger=SLUG)), np.random.default_rng(0)
    sample = measure(np.asarray(_art()[0]))
    names, found, arrivals = looking.names(project.plan), {}, []
    middles = dice.normal(0, 1, (5, 64))
    for number in range(count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        grid = np.asarray(Image.fromarray(dice.integers(0, 256, (3, 3, 3), np.uint8)).resize((8, 8))).tobytes()
        fields = {"name": f"picture {number:05d}.jpg", "width": 1152, "height": 896, "source": "made up"}
        fields |= {"sharpness": float(dice.lognormal(-2)), "phash": int(dice.integers(2**63)), "signature": grid}
        arrivals.append(Arrival(b"none", digest, ".jpg", b"none", images.WHITE, fields | {"caption": caption(number)}))
        vector = middles[number % 5] + dice.normal(0, 0.8, 64)
        values = {
            "measures": sample.to_bytes(),
            "faces": json.dumps([(0.4, 0.2, 0.6, 0.4)] * int(dice.integers(3))).encode(),
            "lettering": b"0.0",
            "embedding": (vector / np.linalg.norm(vector)).astype(np.float32).tobytes(),
            "scores": json.dumps({tag: round(dice.random(), 4) for tag in caption(-number).split(", ")}).encode(),
        }
        for name, key in names.items():
            found.setdefault(key, {})[digest] = values[name]
    for kind in ("originals/{}.jpg", "thumbs/{}.webp"):  # the import waits for the disk after each; here it need not
        for one in arrivals:
            path = project.folder / kind.format(one.sha256)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"none")
    project.add_images(arrivals)
    for key, of_contents in found.items():
        Looks(project.folder).put(key, of_contents)


# --- what is measured -------------------------------------------------------------------------------------------------


def _timed(what: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    answer = what()
    return time.perf_counter() - begun, answer


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f} pictures/s"


def _each(seconds: Sequence[float]) -> str:
    middle = statistics.median(seconds)
    return f"{1000 * middle:.1f} ms a picture ({1 / middle:.1f} pictures/s on one thread)"


def _facts(project: Project) -> tuple[list[Any], dict[tuple[str, str], str]]:
    known = looking.facts(project)
    return known, looking.pairs(project, [one.sha256 for one in known])


def importing(project: Project, count: int) -> Found:
    """The import as the studio does it, with the pictures' captions."""
    seconds, done = _timed(lambda: gathering.gather(project, [project.root / "pictures"]))
    assert done.added + done.already == count, done
    return {f"import ({WORKERS} threads)": _rate(count, seconds)}


def alone(project: Project, count: int) -> Found:
    """Each look by itself, one thread."""
    import cv2

    from lora_studio.vision import faces, text

    cv2.setNumThreads(1)
    pictures = [images.decode(project.original_path(image)) for image in project.images()[:ALONE]]
    looks = {"quality scores": measure, "faces": faces.find, "lettering": text.find}
    found = {
        f"{name} alone": _each([_timed(lambda one=one, see=see: see(np.asarray(one)))[0] for one in pictures])
        for name, see in looks.items()
    }
    from lora_studio.tagger.model import load_model

    model = load_model(project.plan.tagger)
    model.embed_images(pictures[: look.CHUNK])
    starts = range(0, len(pictures), look.CHUNK)
    seconds = sum(_timed(lambda at=at: model.embed_images(pictures[at : at + look.CHUNK]))[0] for at in starts)
    return found | {"embeddings alone (starter, all cores)": _rate(len(pictures), seconds)}


def looks(project: Project, count: int) -> Found:
    """The whole job: faces, lettering, embeddings and scores of all, then the comparison of what looks alike."""
    times: list[tuple[str, float]] = []
    folder = project.root / "job"
    folder.mkdir()
    context = JobContext(
        folder, lambda event: times.append((event["name"], time.perf_counter())) if event["event"] == "Phase" else None
    )
    done = look.look({"root": str(project.root), "project": project.slug}, context)
    assert not done["failed"] and not done["problem"], done
    times.append(("end", time.perf_counter()))
    took = {name: after - before for (name, before), (_, after) in pairwise(times)}
    return {
        "the job that looks": _rate(count, took["look"]),
        "its comparison of likely copies": f"{took['compare']:.1f} s for {done['compared']} pairs",
    }


def copies(project: Project, count: int) -> Found:
    """The search by hashes, colour grids and embeddings, and the groups that come of all verdicts."""
    known, pairs = _facts(project)
    seconds, likely = _timed(lambda: duplicates.candidates(known))
    found = {"pairs that may be copies": f"{seconds:.2f} s, {_rate(count, seconds)}, {len(likely)} pairs"}
    seconds, groups = _timed(lambda: duplicates.groups(known, pairs))
    return found | {"groups of copies": f"{seconds:.2f} s, {_rate(count, seconds)}, {len(groups)} groups"}


def audit(project: Project, count: int) -> Found:
    """What the judge knows is read, the whole set judged, a decision proposed for each."""
    seconds, known = _timed(lambda: looking.facts(project))
    found = {"facts read": f"{seconds:.2f} s"}
    seconds, verdict = _timed(lambda: curation.judge(project, known, RESOLUTION))
    found |= {"audit": f"{seconds:.2f} s"}
    everything = project.images()
    seconds, _ = _timed(lambda: curation.proposals(project, images=everything, found=verdict))
    return found | {"proposals": f"{seconds:.2f} s"}


def mapped(project: Project, count: int) -> Found:
    """The map of the embeddings."""
    known = looking.facts(project)
    vectors = np.stack([one.embedding for one in known])
    seconds, found = _timed(lambda: layout.layout([one.id for one in known], vectors))
    return {"map": f"{seconds:.2f} s, {len(found.clusters)} clusters"}


def filtering(project: Project, count: int) -> Found:
    """Filters over rows that are at hand, as the page has them; and sorting."""
    seconds, every = _timed(lambda: rows(project, curation.audit(project, RESOLUTION).flags))
    found = {"rows for the filters, with an audit": f"{seconds:.2f} s"}
    for text in TRIED:
        seconds, ids = _timed(lambda text=text: filters.select(every, filters.parse(text)))
        found[f"filter `{text}`"] = f"{1000 * seconds:.0f} ms, {len(ids)} found"
    seconds, _ = _timed(lambda: filters.order(project, [row.image.id for row in every], "blur", True, every))
    return found | {"sorted by blur": f"{1000 * seconds:.0f} ms"}


def deciding(project: Project, count: int) -> Found:
    """One picture kept, and one decision for all."""
    ids = [image.id for image in project.images()]
    times = [_timed(lambda one=one: curation.keep(project, [one]))[0] for one in ids[:DECISIONS]]
    seconds, _ = _timed(lambda: curation.reset(project, ids))
    late = sorted(times)[int(0.95 * (len(times) - 1))]
    return {
        "one decision": f"{1000 * statistics.median(times):.1f} ms (95 of 100 within {1000 * late:.1f} ms)",
        "one decision for all": f"{1000 * seconds:.0f} ms",
    }


PARTS = {
    "import": importing, "alone": alone, "look": looks, "copies": copies, "audit": audit, "map": mapped,
    "filters": filtering, "decision": deciding,
}  # fmt: skip
ASKED = {
    "import": ("import",),
    "look": ("import", "alone", "look"),
    "audit": ("copies", "audit", "map", "filters", "decision"),
    "all": tuple(PARTS),
}


def alone_in_process(part: str, root: Path, count: int) -> None:
    """Measure one part here, and print what was found as JSON."""
    project = Project.open(root, SLUG)
    begun = time.perf_counter()
    found = PARTS[part](project, count)
    used = time.process_time()
    print(json.dumps({"found": found, "wall": time.perf_counter() - begun, "processor": used, "memory": _peak()}))


def _peak() -> float:
    """MB that this process held at most. Not `ru_maxrss`: on Linux that begins with what the parent held."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:
        return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    """Make the pictures, measure each part, write the table of all or of that part."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", nargs="?", choices=ASKED, default="all")
    words.add_argument("--pictures", type=int, default=10_000)
    words.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.part:
        alone_in_process(asked.part[0], Path(asked.part[1]), asked.pictures)
        return
    result: Found = {"machine": machine(), "pictures": asked.pictures, "what": asked.what, "parts": {}}
    with tempfile.TemporaryDirectory(prefix="lora-studio-dataset-") as folder:
        root, begun = Path(folder), time.perf_counter()
        if asked.what == "audit":
            made_up(root, asked.pictures)
        else:
            make(root / "pictures", asked.pictures)
            files = list((root / "pictures").glob("*.jpg"))
            result["bytes"] = sum(path.stat().st_size for path in files) / len(files)
            Project.create(root, Plan(name=SLUG, trigger=SLUG))
        print(f"made in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        for part in ASKED[asked.what]:
            print(f"{part} ...", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.dataset", "--pictures", str(asked.pictures)]
            done = subprocess.run([*command, "--part", part, folder], cwd=ROOT, stdout=subprocess.PIPE, check=True)
            result["parts"][part] = json.loads(done.stdout.splitlines()[-1])
    save("dataset" if asked.what == "all" else f"dataset-{asked.what}", result, report(result))


def report(result: Found) -> str:
    """The table and what is to be said of it."""
    lines = []
    for part, one in result["parts"].items():
        for place, (name, value) in enumerate(one["found"].items()):
            whole = [f"{one[key]:.0f} s" for key in ("wall", "processor")] + [f"{one['memory']:.0f} MB"]
            lines.append([part if not place else "", name, value, *(whole if not place else [""] * 3)])
    of = (
        "whose findings are made up"
        if result["what"] == "audit"
        else f"of 1 megapixel, {result['bytes'] / 1000:.0f} KB"
    )
    used = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pillow", "opencv-python-headless"))
    table = markdown(["process", "what", "found", "wall time", "processor time", "peak memory"], lines)
    return (
        f"{result['pictures']} pictures {of}. {used}.\n\n{table}\n\nWall and processor time are those of the whole "
        "process. Opening the grid, its memory and its decisions are measured in a browser by `benchmarks.grid`, how "
        "well copies are found by `benchmarks.duplicates`, how well faults by `benchmarks.detection`."
    )


if __name__ == "__main__":
    main()
