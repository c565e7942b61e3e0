"""The auto-tagger's job: pictures in, `results.jsonl` out, one line a picture as soon as it is known."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import Event, FileWritten, Note, Phase, Progress
from lora_studio.tagger.choose import choose
from lora_studio.tagger.combine import combine
from lora_studio.tagger.config import TagConfig, TagJob
from lora_studio.tagger.model import Describer, Scorer, load
from lora_studio.tagger.pipeline import Prepared, prepared_batches

RESULTS = "results.jsonl"
MADE_WITH = "results.config.json"


class _Stop(BaseException):
    """A stop came while a model was loading or being fetched. No Exception: those become words of the hub's errors."""


def tag(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """The job's entry. Each line is `{"id", "tags": [[name, probability, category], ...], "text": sentences of those
    that describe, "error": "" or the reason}`.

    A stop or a kill keeps what is done; started again in the same folder with the same settings, pictures already
    tagged are passed over. Returns `{"written", "failed": [{"id", "file", "reason"}]}` over all pictures of the job.
    Raises UserError when a model cannot be used (then nothing is written), or when not one picture could be tagged.
    """
    settings = TagJob.load(config)
    known = _known(job.folder, settings)
    total = len(settings.images)
    try:
        models = _load(settings.config, job) if len(known) < total else []
    except _Stop:
        job.report(Note(f"Stopped before the first picture; {len(known)} of {total} were tagged before."))
        return {"written": len(known), "failed": []}
    _begin(job.folder, settings, known)
    failed = _tag(models, settings, known, job)
    written = total - len(failed) if not job.should_stop() else len(_known(job.folder, settings))
    if not written and not job.should_stop():
        reason = failed[0]["reason"] if failed else "there were none"
        raise UserError(
            f"Not one of {total} pictures could be tagged ({reason}).", "Check that the files are still there."
        )
    job.report(FileWritten(RESULTS, "result", info={"written": written, "failed": len(failed)}))
    return {"written": written, "failed": failed}


def _load(config: TagConfig, job: JobContext) -> list[Scorer | Describer]:
    def report(event: Event) -> None:
        job.report(event)
        if job.should_stop():
            raise _Stop

    vocabulary = Path(config.vocabulary).expanduser() if config.vocabulary else None
    models = []
    for name in config.models:
        report(Phase("load", f"Loading {'the tagger' if name == 'starter' else name}"))
        models.append(load(name, report, vocabulary=vocabulary))
    return models


def _tag(
    models: Sequence[Scorer | Describer], settings: TagJob, known: dict[int, str], job: JobContext
) -> list[dict[str, Any]]:
    """Append a line for each picture that has none; returns those that failed."""
    left = [entry for entry in settings.images if entry["id"] not in known]
    total, done = len(settings.images), len(known)
    job.report(Phase("tag", f"Tagging {total} pictures" + (f", {done} of them known already" if done else "")))
    job.report(Progress(done, total))
    failed: list[dict[str, Any]] = []
    config = settings.config

    def prepare(image: Image.Image) -> list[Any]:
        return [model.prepare(image) for model in models]

    draft = max(model.draft for model in models) if all(model.draft for model in models) else 0
    batches = prepared_batches(left, config.batch_size, prepare, settings.background, draft=draft)
    with (job.folder / RESULTS).open("a", encoding="utf-8") as file, closing(batches):
        for batch in batches:
            if job.should_stop():
                job.report(Note(f"Stopped: {done} of {total} pictures are tagged and kept."))
                break
            file.writelines(json.dumps(line) + "\n" for line in answers(models, batch, config))
            file.flush()
            for item in batch:
                if item.reason:
                    name = Path(item.file).name
                    failed.append({"id": item.id, "file": name, "reason": item.reason})
                    job.report(Note(f"{name} could not be tagged: {item.reason}.", "warning"))
            done += len(batch)
            job.report(Progress(done, total, f"{done} of {total} pictures"))
    return failed


def answers(models: Sequence[Scorer | Describer], batch: Sequence[Prepared], config: TagConfig) -> list[dict[str, Any]]:
    """The line of each picture of a batch; `ready` of each holds what every model has prepared.

    Raises UserError when the graphics card's memory does not hold the batch, or a model answers with no numbers.
    """
    good = [item for item in batch if not item.reason]
    tags: list[list[list[Any]]] = [[] for _ in good]
    texts: list[list[str]] = [[] for _ in good]
    kinds: dict[str, None] = {}
    try:
        for place, (name, model) in enumerate(zip(config.models, models, strict=True)):
            ready = [item.ready[place] for item in good]
            if hasattr(model, "describe_prepared"):
                said = model.describe_prepared(ready, config.prompt, config.max_tokens)
                for own, text in zip(texts, said, strict=True):
                    own.append(text)
                continue
            scores = model.score_prepared(ready) if ready else ()
            if not np.isfinite(scores).all():
                raise UserError(f"{name} answers with values that are not numbers.", "Choose another tagger.")
            kinds |= dict.fromkeys(model.vocabulary.categories)
            for own, row in zip(tags, scores, strict=True):
                own.append(choose(row, model.vocabulary, config))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The graphics card's memory does not hold {len(good)} pictures at once for {', '.join(config.models)}.",
            f"Start again with batch_size {max(1, len(good) // 4)}; what is tagged is kept.",
        ) from error
    done = iter(zip(tags, texts, strict=True))
    lines = []
    for item in batch:
        found, sentences = ([], []) if item.reason else next(done)
        chosen = combine(found, config, list(kinds)) if found else []
        text = " ".join(" ".join(sentences).split())
        lines.append({"id": item.id, "tags": chosen, "text": text, "error": item.reason})
    return lines


def _known(folder: Path, settings: TagJob) -> dict[int, str]:
    """Lines by picture that are good from before; none when they are of other settings. A torn last line, and pictures
    that failed, are tried again."""
    path, note = folder / RESULTS, folder / MADE_WITH
    lines: dict[int, str] = {}
    if path.exists() and note.exists() and note.read_text("utf-8") == _settings_text(settings):
        wanted = {entry["id"] for entry in settings.images}
        for text in path.read_text("utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if not line["error"] and line["id"] in wanted:
                lines[line["id"]] = text
    return lines


def _begin(folder: Path, settings: TagJob, known: dict[int, str]) -> None:
    """The results hold just the known lines, and what they were made with stands beside them."""
    write_text(folder / RESULTS, "".join(f"{text}\n" for text in known.values()))
    write_text(folder / MADE_WITH, _settings_text(settings))


def _settings_text(settings: TagJob) -> str:
    return json.dumps(settings.config.to_dict() | {"background": settings.background}, sort_keys=True)
