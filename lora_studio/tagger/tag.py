"""The auto-tagger's job: pictures in, `results.jsonl` out, one line a picture as soon as it is known."""

import json
from pathlib import Path
from typing import Any

from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import FileWritten, Note, Phase, Progress
from lora_studio.tagger.choose import choose
from lora_studio.tagger.config import TagJob
from lora_studio.tagger.embed import Decoded, decoded_batches
from lora_studio.tagger.model import Tagger, load_model

RESULTS = "results.jsonl"
MADE_WITH = "results.config.json"


def tag(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """The job's entry. Each line is `{"id", "tags": [[name, probability, category], ...], "error": "" or the reason}`.

    A stop keeps what is done; started again in the same folder with the same settings, pictures already tagged are
    passed over. Returns `{"written", "failed": [{"id", "file", "reason"}]}` over all pictures of the job. Raises
    UserError when not one picture could be tagged.
    """
    settings = TagJob.load(config)
    results = job.folder / RESULTS
    known = _known(job.folder, settings)
    left = [entry for entry in settings.images if entry["id"] not in known]
    job.report(Phase("load", "Loading the tagger"))
    model = load_model(settings.config.models[0])
    total, done = len(settings.images), len(settings.images) - len(left)
    job.report(Phase("tag", f"Tagging {total} pictures" + (f", {done} of them known already" if done else "")))
    job.report(Progress(done, total))
    failed: list[dict[str, Any]] = []
    with results.open("a", encoding="utf-8") as file:
        for batch in decoded_batches(left, settings.config.batch_size):
            if job.should_stop():
                job.report(Note(f"Stopped: {done} of {total} pictures are tagged and kept."))
                break
            for line in _tag_batch(model, batch, settings):
                file.write(json.dumps(line) + "\n")
            file.flush()
            for item in batch:
                if item.reason:
                    name = Path(item.file).name
                    failed.append({"id": item.id, "file": name, "reason": item.reason})
                    job.report(Note(f"{name} could not be tagged: {item.reason}.", "warning"))
            done += len(batch)
            job.report(Progress(done, total, Path(batch[-1].file).name))
    written = done - len(failed)
    if not written and not job.should_stop():
        reason = failed[0]["reason"] if failed else "there were none"
        raise UserError(
            f"Not one of {total} pictures could be tagged ({reason}).", "Check that the files are still there."
        )
    job.report(FileWritten(RESULTS, "result", info={"written": written, "failed": len(failed)}))
    return {"written": written, "failed": failed}


def _tag_batch(model: Tagger, batch: list[Decoded], settings: TagJob) -> list[dict[str, Any]]:
    pictures = [item.picture for item in batch if item.picture is not None]
    scores = iter(model.score(pictures) if pictures else ())
    return [
        {"id": item.id, "tags": [], "error": item.reason}
        if item.picture is None
        else {"id": item.id, "tags": choose(next(scores), model.vocabulary, settings.config), "error": ""}
        for item in batch
    ]


def _known(folder: Path, settings: TagJob) -> set[int]:
    """Ids with a good line from before; the file is rewritten to hold just these (a torn last line, and pictures that
    failed, are tried again). Results of other settings are left behind."""
    made_with = json.dumps(settings.config.to_dict(), sort_keys=True)
    path, note = folder / RESULTS, folder / MADE_WITH
    lines: dict[int, str] = {}
    if path.exists() and note.exists() and note.read_text("utf-8") == made_with:
        for text in path.read_text("utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if not line["error"]:
                lines[line["id"]] = text
    write_text(path, "".join(f"{text}\n" for text in lines.values()))
    write_text(note, made_with)
    return set(lines)
