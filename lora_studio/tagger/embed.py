"""Embeddings and tag probabilities of picture files: functions for the testing step, and a job of its own."""

import io
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_studio.core.errors import UserError
from lora_studio.core.files import inside, write_bytes
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import FileWritten, Note, Phase, Progress
from lora_studio.tagger.config import EmbedJob
from lora_studio.tagger.model import Floats, Tagger, load_model
from lora_studio.tagger.pipeline import prepared_batches

BATCH = 16


@dataclass(frozen=True)
class Embedded:
    """What the tagger says of N pictures."""

    embeddings: Floats
    """(N, D), each of length 1."""
    scores: Floats
    """(N, T) probabilities in the vocabulary's order."""


def embed_files(
    model: Tagger,
    files: Sequence[Path],
    batch_size: int = BATCH,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Embed and tag every file, decoding ahead of the model. Raises UserError naming the first file that is no
    picture."""
    entries = [{"id": number, "file": str(file)} for number, file in enumerate(files)]
    parts, done = [], 0
    with closing(prepared_batches(entries, batch_size, model.prepare, draft=model.draft)) as batches:
        for batch in batches:
            for item in batch:
                if item.reason:
                    name = Path(item.file).name
                    raise UserError(f"{name}: {item.reason}.", "Take this picture out and try again.")
            parts.append(model.embed_prepared([item.ready for item in batch]))
            done += len(batch)
            report(done, len(files))
    embeddings = np.concatenate(parts) if parts else np.zeros((0, model.embed_texts([""]).shape[1]), np.float32)
    return Embedded(embeddings, model.tag_scores(embeddings))


def embed(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """The job's entry: writes `out` with image_ids (N,), image (N, D), scores (N, T), tags (T,), text (M, D).

    Returns `{"embedded", "failed": [{"id", "file", "reason"}], "file"}`. A stop writes nothing. Raises UserError
    when not one picture could be read.
    """
    settings = EmbedJob.load(config)
    job.report(Phase("load", "Loading the tagger"))
    model = load_model(settings.model)
    job.report(Phase("embed", f"Looking at {len(settings.images)} pictures"))
    ids, parts, failed, done = [], [], [], 0
    with closing(prepared_batches(settings.images, settings.batch_size, model.prepare, draft=model.draft)) as batches:
        for batch in batches:
            if job.should_stop():
                return {"embedded": 0, "failed": failed, "file": ""}
            good = [item for item in batch if not item.reason]
            failed += [
                {"id": item.id, "file": Path(item.file).name, "reason": item.reason} for item in batch if item.reason
            ]
            if good:
                ids += [item.id for item in good]
                parts.append(model.embed_prepared([item.ready for item in good]))
            done += len(batch)
            job.report(Progress(done, len(settings.images)))
    if settings.images and not parts:
        raise UserError(
            f"None of the {len(failed)} pictures could be read ({failed[0]['reason']}).", "Check the files."
        )
    for one in failed:
        job.report(Note(f"{one['file']} was passed over: {one['reason']}.", "warning"))
    text = model.embed_texts(settings.texts) if settings.texts else np.zeros((0, 0), np.float32)
    image = np.concatenate(parts) if parts else np.zeros((0, text.shape[1]), np.float32)
    scores = model.tag_scores(image) if len(image) else np.zeros((0, len(model.vocabulary)), np.float32)
    buffer = io.BytesIO()
    tags = np.array(model.vocabulary.names)
    np.savez(buffer, image_ids=np.array(ids, np.int64), image=image, scores=scores, tags=tags, text=text)
    write_bytes(inside(job.folder, settings.out), buffer.getvalue())
    job.report(FileWritten(settings.out, "result", info={"count": len(ids), "failed": len(failed)}))
    return {"embedded": len(ids), "failed": failed, "file": settings.out}
