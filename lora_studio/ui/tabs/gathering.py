"""Gathering: pictures from anywhere, what became of each file, and where they are from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import ENDED, Job
from lora_studio.core.project import PROVENANCE, Project
from lora_studio.core.settings import describe
from lora_studio.steps import conception, gathering
from lora_studio.steps.sources import keys
from lora_studio.steps.sources.addresses import host_of, parse
from lora_studio.steps.sources.config import SourceConfig
from lora_studio.ui import guards, pictures
from lora_studio.ui.components.part import part
from lora_studio.ui.quick import gr
from lora_studio.ui.studio import Studio

MAX_LISTED = 1000
"""Rows of the list of files that could not be taken; more than that is a number."""


def functions(studio: Studio) -> dict[str, Any]:
    """What the tab's scripts call."""

    def info(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        used = [image for image in studio.images(opened) if image.used]
        job = _last(studio, opened)
        return {
            "meter": gathering.meter(opened.plan, len(used)),
            "sample": conception.sample_pictures(opened) is not None,
            "job": _shown(studio, job) if job else None,
            "refused": len(opened.quarantined()),
        }

    def look_for(project: str) -> list[str]:
        opened = studio.open(project)
        used = any(image.used for image in studio.images(opened))
        return gathering.next_to_find(opened, studio.audit(opened) if used else None)

    return {
        "gathering.info": info,
        "gathering.next": look_for,
        **_importing(studio),
        **_told(studio),
        **_thanks(studio),
        **_keys(),
    }


def _importing(studio: Studio) -> dict[str, Callable[..., Any]]:
    def sources(project: str) -> dict[str, Any]:
        here = studio.open(project)
        others = [found for found in Project.all(studio.root) if found.slug != here.slug]
        return {
            "settings": describe(SourceConfig),
            "owner": guards.owner.get(),
            "background": here.plan.background,
            "projects": [
                {"slug": found.slug, "name": found.plan.name, "pictures": len(studio.images(found))} for found in others
            ],
        }

    def begin(project: str) -> str:
        studio.open(project)
        return studio.uploads.begin()

    def uploaded(project: str, batch: str, source: dict[str, Any] | None = None) -> str:
        path = studio.uploads.path(batch)
        return _start(studio, project, SourceConfig.load({**(source or {}), "paths": [str(path)]}))

    def start(project: str, source: dict[str, Any]) -> str:
        config = SourceConfig.load(source)
        if config.kind in ("paths", "video"):
            config = SourceConfig.load({**source, "paths": [str(_named(path)) for path in config.paths]})
        return _start(studio, project, config)

    def leave(batch: str) -> None:
        studio.uploads.path(batch)
        studio.uploads.finish(batch)

    def background(project: str, colour: str) -> None:
        studio.open(project).set_background(colour)

    def again(project: str) -> str:
        job = _last(studio, studio.open(project))
        if job is None:
            raise UserError("Nothing was imported here yet.", "Choose where the pictures come from.")
        config = SourceConfig.load(job.config["source"])
        for batch in _batches(studio, config):
            studio.uploads.path(batch)  # says so when they are gone
        return _start(studio, project, config)

    def sample(project: str) -> str:
        found = conception.sample_pictures(studio.open(project))
        if found is None:
            raise UserError("This project did not begin as a sample.", "Drop your own pictures here.")
        return _start(studio, project, SourceConfig(paths=(str(found),)))

    return {
        "gathering.sources": sources,
        "gathering.begin": begin,
        "gathering.uploaded": uploaded,
        "gathering.start": start,
        "gathering.leave": leave,
        "gathering.background": background,
        "gathering.again": again,
        "gathering.sample": sample,
    }


def _told(studio: Studio) -> dict[str, Callable[..., Any]]:
    def results(project: str, job: str, since: int = 0) -> dict[str, Any]:
        rows, following = gathering.results(studio.open(project).job_folder("jobs", job), max(0, since))
        return {"rows": rows, "next": following}

    def quarantine(project: str) -> dict[str, Any]:
        rows = studio.open(project).quarantined()
        return {"rows": rows[:MAX_LISTED], "count": len(rows)}

    def forget(project: str, ids: list[int] | None = None) -> int:
        opened = studio.open(project)
        chosen = [row["id"] for row in opened.quarantined()] if ids is None else ids
        opened.forget_quarantine(chosen)
        return len(chosen)

    return {"gathering.results": results, "gathering.quarantine": quarantine, "gathering.forget": forget}


def _thanks(studio: Studio) -> dict[str, Callable[..., Any]]:
    def origins(project: str, ids: list[int]) -> dict[str, Any]:
        wanted = set(ids)
        chosen = [image for image in studio.images(studio.open(project)) if image.id in wanted]
        found = {name: {getattr(image, name) for image in chosen} for name in PROVENANCE}
        # None: they differ
        fields = {name: (values.pop() if len(values) == 1 else None) for name, values in found.items()}
        return {"ids": [image.id for image in chosen], "fields": fields if chosen else {}}

    def provenance(project: str, ids: list[int], fields: dict[str, str]) -> dict[str, Any]:
        opened = studio.open(project)
        gathering.set_provenance(opened, ids, **{name: value.strip() for name, value in fields.items()})
        return pictures.changed(opened, ids)

    def credits(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        return {"rows": gathering.credits(opened), "text": gathering.credits_text(opened)}

    return {"gathering.origins": origins, "gathering.provenance": provenance, "gathering.credits": credits}


def _keys() -> dict[str, Callable[..., Any]]:
    """Keys go in, and never out: the page is told the host and the user."""

    def key(site: str, server: str = "") -> dict[str, str]:
        host = _host(site, server)
        return {"host": host, "user": keys.hosts().get(host, "")}

    def put(site: str, user: str, key: str, server: str = "") -> dict[str, str]:
        host = _host(site, server)
        keys.put(host, user, key)
        return {"host": host, "user": keys.hosts()[host]}

    def forget(site: str, server: str = "") -> dict[str, str]:
        host = _host(site, server)
        keys.forget(host)
        return {"host": host, "user": ""}

    return {"gathering.key": key, "gathering.put_key": put, "gathering.forget_key": forget}


def _host(site: str, server: str) -> str:
    from lora_studio.steps.sources import boorus  # here: the network's client is slow to import

    config = SourceConfig.load({"kind": "booru", "site": site, "server": server.strip()})
    return host_of(parse(boorus.server_of(config)))


def _named(path: str) -> Path:
    """A path that the page names. Raises UserError unless it is the owner's, whole, and there."""
    if not guards.owner.get():
        raise UserError(
            "Files of the studio's machine can be named only on that machine itself.", "Drop or choose files instead."
        )
    named = Path(path.strip().strip("\"'")).expanduser()
    if not named.is_absolute():
        raise UserError(f"{path} is not a full path.", "Name a folder or file from the top, like /home/me/pictures.")
    if not named.exists():
        raise UserError(f"{named} does not exist on this machine.", "Check the spelling.")
    return named


def _start(studio: Studio, project: str, config: SourceConfig) -> str:
    opened = studio.open(project)
    job = _last(studio, opened)
    if job is not None and job.state not in ENDED:
        raise UserError("An import is already running.", "Wait for it or stop it first.")
    return gathering.start(opened, studio.jobs, config).id


def _last(studio: Studio, project: Project) -> Job | None:
    jobs = [job for job in studio.jobs.all(project.slug) if job.id.startswith("gather-")]
    return jobs[0] if jobs else None


def _shown(studio: Studio, job: Job) -> dict[str, Any]:
    summary, config = job.summary, SourceConfig.load(job.config["source"])
    batches = _batches(studio, config)
    if job.state == "done":  # one that was stopped or failed can be gone on with
        for batch in batches:
            studio.uploads.finish(batch)
    return {
        "id": job.id,
        "state": job.state,
        "error": job.error,
        "remedy": job.remedy,
        "source": _called(config, bool(batches)),
        "again": all((studio.uploads.folder / batch).is_dir() for batch in batches),
        "added": summary.get("added", 0),
        "already": summary.get("already", 0),
        "captions": summary.get("captions", 0),
        "num_refused": summary.get("num_refused", 0),
        **studio.progress(job),
    }


def _batches(studio: Studio, config: SourceConfig) -> list[str]:
    paths = [Path(path) for path in config.paths]
    return [path.name for path in paths if path.parent == studio.uploads.folder]


def _called(config: SourceConfig, dropped: bool) -> str:
    """The source of an import in a few words."""
    if dropped:
        return "videos from your computer" if config.kind == "video" else "files from your computer"
    several = f"{len(config.urls)} addresses" if len(config.urls) != 1 else config.urls[0]
    if any(Path(path).is_relative_to(paths.assets()) for path in config.paths):
        return "the sample's pictures"
    names = ", ".join(Path(path).name for path in config.paths)  # the folders above it are nobody else's business
    return {
        "paths": names,
        "video": names,
        "urls": several,
        "booru": f"{config.tags} at {config.server or config.site}",
        "project": f"the project {config.project}",
        "hub": config.dataset,
    }[config.kind]


def build(studio: Studio, steps: gr.HTML, current: gr.Textbox, said: gr.HTML) -> None:
    """Draw the tab: the grid, and beside it where pictures come from."""
    part("gathering", classes="ls-whole")
