"""Gathering: pictures by drag and drop, from a folder or zip on this machine, or the sample's own."""

from pathlib import Path
from typing import Any

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import ENDED, Job
from lora_studio.core.project import Project
from lora_studio.steps import conception, gathering
from lora_studio.ui.components.part import part
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio

MAX_REFUSED = 500
"""Rows of the result table; more than that is a sentence."""


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's script calls."""

    def info(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        used = [image for image in studio.images(opened) if image.used]
        job = _last(studio, opened)
        return {
            "meter": gathering.meter(opened.plan, len(used)),
            "sample": conception.sample_pictures(opened) is not None,
            "job": _shown(studio, job) if job else None,
        }

    def begin(project: str) -> str:
        studio.open(project)
        return studio.uploads.begin()

    def uploaded(project: str, batch: str) -> str:
        return _start(studio, project, studio.uploads.path(batch))

    def folder(project: str, path: str) -> str:
        named = Path(path.strip().strip('"')).expanduser()
        if not path.strip() or not named.is_absolute():
            raise UserError(
                f"{path.strip() or 'Nothing'} is not a full path.",
                "Name a folder or file from the top, like /home/me/pictures.",
            )
        if not named.exists():
            raise UserError(f"{named} does not exist on this machine.", "Check the spelling.")
        return _start(studio, project, named)

    def sample(project: str) -> str:
        pictures = conception.sample_pictures(studio.open(project))
        if pictures is None:
            raise UserError("This project did not begin as a sample.", "Drop your own pictures here.")
        return _start(studio, project, pictures)

    return {
        "gathering.info": info,
        "gathering.begin": begin,
        "gathering.uploaded": uploaded,
        "gathering.folder": folder,
        "gathering.sample": sample,
    }


def _start(studio: Studio, project: str, source: Path) -> str:
    opened = studio.open(project)
    job = _last(studio, opened)
    if job is not None and job.state not in ENDED:
        raise UserError("An import is already running.", "Wait for it or stop it first.")
    return gathering.start(opened, studio.jobs, [source]).id


def _last(studio: Studio, project: Project) -> Job | None:
    jobs = [job for job in studio.jobs.all(project.slug) if job.id.startswith("gather-")]
    return jobs[0] if jobs else None


def _shown(studio: Studio, job: Job) -> dict[str, Any]:
    summary = job.summary
    refused = summary.get("refused", [])
    if job.state in ENDED:
        _forget_upload(studio, job)
    return {
        "id": job.id,
        "state": job.state,
        "error": job.error,
        "remedy": job.remedy,
        "added": summary.get("added", 0),
        "already": summary.get("already", 0),
        "captions": summary.get("captions", 0),
        "refused": refused[:MAX_REFUSED],
        "num_refused": summary.get("num_refused", 0),
        **studio.progress(job),
    }


def _forget_upload(studio: Studio, job: Job) -> None:
    for source in job.config["source"]["paths"]:
        if Path(source).parent == studio.uploads.folder:
            studio.uploads.finish(Path(source).name)


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab: the grid, and beside it where pictures come from."""
    part("gathering", classes="ls-whole")
