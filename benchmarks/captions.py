"""Bulk edits of captions: 10,000 pictures with about 150,000 tags, beside a plain pandas and a plain regex script.

    python -m benchmarks.captions

An edit here is planned, shown as a diff, checked against what was shown, written as one synced transaction, and undone
after the project was opened anew. The scripts only replace, and write without a sync, a check or an undo. Turns are
taken in one process, so that other work on the machine hits all alike; figures are medians.
"""

import random
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import common
from lora_studio.core import database
from lora_studio.core.project import Plan, Project
from lora_studio.steps import caption_edits, checking, filters, sidecars, watching
from lora_studio.steps.caption_edits import CaptionEdit
from lora_studio.steps.rows import rows

PICTURES = 10_000
VOCABULARY = 2_000
TAGS = 15
TURNS = 5


def project_of(root: Path) -> Project:
    """Captions of 15 tags, drawn as tags are: the second half as often as the first, and so on (Zipf)."""
    project = Project.create(root, Plan(name="large", trigger="zorbi"))
    dice = random.Random(1)
    words = [f"tag {number} word" for number in range(VOCABULARY)]
    weights = [1 / (number + 1) for number in range(VOCABULARY)]
    with database.transaction(project.folder / "project.db") as connection:
        for number in range(PICTURES):
            caption = ", ".join(list(dict.fromkeys(["zorbi", *dice.choices(words, weights, k=22)]))[:TAGS])
            connection.execute(
                "INSERT INTO images (sha256, name, extension, width, height, size, caption, added, signature) "
                "VALUES (?, ?, '.png', 512, 512, 1000, ?, 0, ?)",
                (f"{number:064x}", f"picture {number}.png", caption, bytes(192)),
            )
    return project


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds and the answer."""
    begin = time.perf_counter()
    found = work()
    return 1000 * (time.perf_counter() - begin), found


def own(project: Project, edit: CaptionEdit) -> dict[str, float]:
    """One edit from the question to its undo."""
    found = {}
    found["preview"], diff = timed(lambda: caption_edits.preview(project, None, edit))
    found["diff to show"], page = timed(diff.page)
    found["written"], ids = timed(lambda: caption_edits.apply(project, None, edit, page["digest"]))
    found["undo"], _ = timed(Project.open(project.root, project.slug).undo)
    return {**found, "all but the undo": sum(found.values()) - found["undo"], "changed": len(ids)}


def with_pandas(captions: list[str], pattern: str, by: str, path: Path) -> dict[str, float]:
    """The same replacement in a column, written as a table."""
    frame = pd.DataFrame({"caption": captions})
    seconds, after = timed(lambda: frame.caption.str.replace(pattern, by, regex=True))
    frame.caption = after
    return {"replaced": seconds, "written": timed(lambda: frame.to_csv(path))[0]}


def with_regex(captions: list[str], pattern: str, by: str, folder: Path) -> dict[str, float]:
    """The same replacement as a script does it: file by file."""
    paths = [folder / f"{number}.txt" for number in range(len(captions))]
    for path, caption in zip(paths, captions, strict=True):
        path.write_text(caption, "utf-8")

    def script() -> None:
        for path in paths:
            path.write_text(re.sub(pattern, by, path.read_text("utf-8")), "utf-8")

    return {"replaced and written": timed(script)[0]}


def counting(project: Project, captions: list[str]) -> dict[str, float]:
    """Each tag with how many pictures have it: ours with share, category and trigger."""
    column = pd.Series(captions)
    return {
        "table of tags": timed(lambda: checking.table(project))[0],
        "pandas explode and value_counts": timed(lambda: column.str.split(", ").explode().value_counts())[0],
        "plain Counter": timed(lambda: Counter(tag for text in captions for tag in text.split(", ")))[0],
    }


def files(project: Project, folder: Path) -> dict[str, float]:
    """10,000 .txt files out, looked over, and in again."""
    found = {"export of .txt": timed(lambda: sidecars.export(project, folder))[0]}
    found["export again, nothing changed"] = timed(lambda: sidecars.export(project, folder))[0]
    found["watch, first look"] = timed(lambda: watching.offer(project, folder))[0]
    (folder / "picture 7.txt").write_text("zorbi, changed", "utf-8")
    found["watch, one file changed"] = timed(lambda: watching.offer(project, folder))[0]
    return found | {"import of all": timed(lambda: sidecars.read(project, folder))[0]}


def filtering(project: Project) -> dict[str, float]:
    """Over rows that are at hand, as the page has them."""
    every = rows(project)
    texts = ("tags < 12", '"tag 3 word" and not "tag 4 word"', "/tag [45] w/", "has:trigger", "untagged")
    return {text: timed(lambda text=text: filters.select(every, filters.parse(text, every)))[0] for text in texts}


def main() -> None:
    """Measure, and write results/captions.json and .md."""
    machine = common.machine()
    turns: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        project = project_of(root / "projects")
        captions = list(project.texts("caption").values())
        tags = sum(len(text.split(", ")) for text in captions)
        (root / "txt").mkdir()
        everywhere = CaptionEdit(do="rename", tags=("zorbi",), new="zorbo")
        one = CaptionEdit(do="rename", tags=("tag 0 word",), new="tag zero")
        pattern = CaptionEdit(do="regex", pattern=r"^tag (\d+) word$", by=r"\1 thing")
        for _ in range(TURNS):
            for title, work in {
                "ours, in every caption": lambda: own(project, everywhere),
                "ours, one tag": lambda: own(project, one),
                "ours, by a regular expression": lambda: own(project, pattern),
                "pandas, one tag": lambda: with_pandas(
                    captions, r"(^|, )tag 0 word(?=,|$)", r"\1tag zero", root / "x.csv"
                ),
                "regex script over .txt, one tag": lambda: with_regex(
                    captions, r"(^|, )tag 0 word(?=,|$)", r"\1tag zero", root / "txt"
                ),
                "counting": lambda: counting(project, captions),
                "filters": lambda: filtering(project),
            }.items():
                turns.setdefault(title, []).append(work())
        turns["files"] = [files(project, root / "out")]
    found = {
        title: {part: round(statistics.median(turn[part] for turn in each), 1) for part in each[0]}
        for title, each in turns.items()
    }
    lines = [
        [title, part, f"{value:.0f}" + ("" if part == "changed" else " ms")]
        for title, parts in found.items()
        for part, value in parts.items()
    ]
    table = common.markdown(["work", "part", f"{PICTURES} captions, {tags} tags"], lines)
    common.save("captions", {"machine": machine, "tags": tags, "found": found}, table)


if __name__ == "__main__":
    main()
