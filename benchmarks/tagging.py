"""The auto-tagger: how good the starter is on pictures it never saw, and how fast tagging is.

    pip install dicebear-core dicebear-styles resvg-py      # draws the pictures of `quality`; the studio needs them not
    python -m benchmarks.tagging [quality|speed|all] [--pictures 1000] [--rounds 5]

*Quality*: pictures drawn by the starter's own generator from a seed that neither its training nor its calibration used,
read from PNG files as a project's are. Average precision (area under precision over recall) and F1 at each tag's own
level, beside what the tagger's model card claims. "As written" is the F1 of the tags that the studio would write, with
the kinds of which a picture has one.

*Speed*: pictures a second of decoding alone and preparing alone (one thread each), of the model alone (prepared
pictures, all cores), and of the whole: decoding and preparing in threads ahead of the model, choosing, one line of
JSON a picture. The whole must reach 85 % of the model alone. "At most" is what all cores could give if nothing ever
waited: the cores over the processor time of all parts. Models but the starter have random weights in the true format.
"""

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import interval, machine, markdown, ratio, save
from lora_studio.core import images, paths
from lora_studio.tagger.choose import choose
from lora_studio.tagger.config import TagConfig
from lora_studio.tagger.embed import embed_files
from lora_studio.tagger.model import load, load_model
from lora_studio.tagger.pipeline import prepared_batches
from lora_studio.tagger.tag import answers

SEED = 20_261_124
"""Not that of the training (1), nor of the pictures it was calibrated and measured on (77)."""
SIZES = (64, 256)
"""Sides of the drawn pictures: what the starter was trained at, and larger ones that have to be made smaller."""
BAR = 0.85


# --- quality --------------------------------------------------------------------------------------------------------


def claimed() -> dict[str, float]:
    """Figures of the model card: `mAP`, `macro F1`, and F1 by category."""
    lines = (paths.assets() / "starter" / "tagger" / "README.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    by_name = {row[0]: row[1:] for row in cells if len(row) == 2}
    found = {name: float(by_name[name][0]) for name in ("macro F1", "mAP")}
    table = next(place for place, row in enumerate(cells) if row[0] == "category")
    return found | {name: float(value) for name, value in zip(cells[table][1:], cells[table + 2][1:], strict=True)}


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """(N,) scores and (N,) bool -> area under precision over recall; NaN where no picture has the tag."""
    ranked = truth[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean()) if truth.any() else float("nan")


def f1(found: np.ndarray, truth: np.ndarray) -> float:
    """F1 of one tag; NaN where it is neither there nor found."""
    whole = float(found.sum() + truth.sum())
    return 2 * float((found & truth).sum()) / whole if whole else float("nan")


def measured(files: Sequence[Path], truth: Sequence[set[str]]) -> dict[str, Any]:
    """Quality of the starter over picture files with their true tags."""
    model = load_model("starter")
    scores, vocabulary = embed_files(model, files).scores, model.vocabulary
    wanted = np.array([[name in tags for name in vocabulary.names] for tags in truth])
    written = [{name for name, _, _ in choose(row, vocabulary, TagConfig())} for row in scores]
    rows = []
    for place, (name, category) in enumerate(zip(vocabulary.names, vocabulary.categories, strict=True)):
        found = scores[:, place] > vocabulary.levels[place]
        rows.append(
            {
                "tag": name,
                "category": category,
                "pictures": int(wanted[:, place].sum()),
                "ap": average_precision(scores[:, place], wanted[:, place]),
                "f1": f1(found, wanted[:, place]),
                "written": f1(np.array([name in tags for tags in written]), wanted[:, place]),
            }
        )
    return {"tags": rows, "all": _mean(rows)} | {
        "categories": {
            kind: _mean([row for row in rows if row["category"] == kind])
            for kind in dict.fromkeys(vocabulary.categories)
        }
    }


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.nanmean([row[name] for row in rows])) for name in ("ap", "f1", "written")}


def quality(count: int, folder: Path) -> tuple[dict[str, Any], str]:
    """Draw and measure; the result and its table."""
    from tools.starter.data import generate, tags_of

    found = {}
    for size in SIZES:
        pictures, attributes = generate(count, SEED, size)
        files = [folder / f"{size}-{number}.png" for number in range(count)]
        for file, pixels in zip(files, pictures, strict=True):
            Image.fromarray(pixels).save(file)
        found[str(size)] = measured(files, [set(tags_of(one)) for one in attributes])
    claims, (small, large) = claimed(), (found[str(size)] for size in SIZES)
    header = ["category", f"mAP {SIZES[0]} px", "F1", "as written", f"mAP {SIZES[1]} px", "F1", "as written"]
    header.append("the card's F1")
    rows = []
    for name in [*small["categories"], "all"]:
        one, two = (which["all"] if name == "all" else which["categories"][name] for which in (small, large))
        rows.append([name, *(f"{part[key]:.3f}" for part in (one, two) for key in ("ap", "f1", "written"))])
        rows[-1].append(f"{claims['macro F1' if name == 'all' else name]:.3f}")
    worst = sorted(small["tags"], key=lambda row: row["f1"])[:6]
    text = f"\n\n{count} pictures; the card claims mAP {claims['mAP']:.3f} in all. Weakest tags at {SIZES[0]} px: "
    text += ", ".join(f"{row['tag']} {row['f1']:.3f}" for row in worst) + "."
    return found | {"claimed": claims, "pictures": count}, markdown(header, rows) + text


# --- speed ----------------------------------------------------------------------------------------------------------


def wd_folder(folder: Path, architecture: str, size: int, tags: int = 10_861) -> Path:
    """A WD tagger with random weights in the files that SmilingWolf publishes."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    model = timm.create_model(architecture, num_classes=tags, img_size=size)
    save_file(model.state_dict(), folder / "model.safetensors")
    shape = {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": architecture, "num_classes": tags, "model_args": {"img_size": size}}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": shape}))
    kinds = [9] * 4 + [0] * (tags - 2004) + [4] * 2000
    lines = [f"{number},tag_{number},{kind},1" for number, kind in enumerate(kinds)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *lines]) + "\n")
    return folder


def photos(folder: Path, count: int, side: int = 1024) -> list[Path]:
    """JPEG files that are as dear to decode as photographs: soft shapes and a little grain."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number in range(count):
        soft = Image.fromarray(chance.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((side, side))
        pixels = np.asarray(soft, np.int16) + chance.integers(-12, 12, (side, side, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
    return sorted(folder.iterdir())


def rate(work: Callable[[], Any], count: int) -> tuple[float, float]:
    """Pictures a second, and processor seconds a picture."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return count / (time.perf_counter() - wall), (time.process_time() - processor) / count


def speed_of(name: str, files: Sequence[Path], batch: int, rounds: int) -> dict[str, Any]:
    """The parts and the whole, in turns, `rounds` times."""
    model, config, count = load(name), TagConfig(models=(name,), batch_size=batch, threshold=0.5), len(files)
    entries = [{"id": number, "file": str(file)} for number, file in enumerate(files)]
    pictures = [images.decode(file, draft=model.draft) for file in files]
    ready = [model.prepare(picture) for picture in pictures]
    model.score_prepared(ready[:batch])

    def whole() -> None:
        for part in prepared_batches(entries, batch, lambda image: [model.prepare(image)], draft=model.draft):
            "".join(json.dumps(line) for line in answers([model], part, config))

    works: dict[str, Callable[[], Any]] = {
        "decode": lambda: [images.decode(file, draft=model.draft) for file in files],
        "prepare": lambda: [model.prepare(picture) for picture in pictures],
        "model": lambda: [model.score_prepared(ready[at : at + batch]) for at in range(0, count, batch)],
        "pipeline": whole,
    }
    found: dict[str, list[tuple[float, float]]] = {part: [] for part in works}
    for _ in range(rounds):
        for part, work in works.items():
            found[part].append(rate(work, count))
    medians = {part: float(np.median([one for one, _ in rates])) for part, rates in found.items()}
    seconds = {part: float(np.median([one for _, one in rates])) for part, rates in found.items()}
    spent = seconds["decode"] + seconds["prepare"] + seconds["model"]
    return {
        "images_per_second": medians,
        "processor_seconds": seconds,
        "at_most": (os.cpu_count() or 1) / spent,
        "ratio": ratio([one for one, _ in found["pipeline"]], [one for one, _ in found["model"]]),
        "pictures": count,
        "batch": batch,
        "rounds": found,
    }


def speed(rounds: int, folder: Path) -> tuple[dict[str, Any], str]:
    """Measure; the result and its table."""
    samples = []
    for path in sorted((paths.assets() / "starter" / "samples").glob("*/images/*.png")):
        try:
            images.decode(path)
            samples.append(path)
        except images.ImageError:
            pass  # the samples have the faults of a downloaded folder
    megapixels = photos(folder / "photos", 32)
    cases = [
        ("starter, samples of 320 px (PNG)", "starter", samples * 4, 16),
        ("starter, 1 megapixel (JPEG)", "starter", megapixels * 4, 16),
        ("ViT S/16 of 224 px, 1 megapixel (JPEG)", str(wd_folder(folder / "s", "vit_small_patch16_224", 224)),
         megapixels, 16),
        ("WD ViT v3 (B/16 of 448 px), 1 megapixel (JPEG)", str(wd_folder(folder / "b", "vit_base_patch16_224", 448)),
         megapixels[:8], 4),
    ]  # fmt: skip
    found, rows = {}, []
    for title, name, files, batch in cases:
        one = found[title] = speed_of(name, files, batch, rounds)
        parts = [f"{value:.4g}" for value in one["images_per_second"].values()]
        verdict = "yes" if one["ratio"][0] >= BAR else "no"
        rows.append([title, *parts, f"{one['at_most']:.4g}", interval(one["ratio"]), verdict])
        print(rows[-1], flush=True)
    header = ["model, pictures", "decode /s", "prepare /s", "model /s", "whole /s", "at most /s", "whole / model"]
    return found, markdown([*header, f">= {BAR:.0%}"], rows)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", nargs="?", default="all", choices=["quality", "speed", "all"])
    words.add_argument("--pictures", type=int, default=1000)
    words.add_argument("--rounds", type=int, default=5)
    chosen = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="lora-studio-tagging-") as folder:
        if chosen.what in ("quality", "all"):
            before = machine()
            found, table = quality(chosen.pictures, Path(folder))
            save("tagging-quality", {"machine": before, **found}, table)
        if chosen.what in ("speed", "all"):
            before = machine()
            found, table = speed(chosen.rounds, Path(folder))
            save("tagging-speed", {"machine": before, "cases": found}, table)


if __name__ == "__main__":
    main()
