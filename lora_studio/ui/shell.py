"""Handlers of the frame around the six tabs: the sidebar, the step bar, undo."""

from typing import Any

from lora_studio.core.jobs import Job
from lora_studio.core.project import Project
from lora_studio.ui.pictures import AS_STORED, version
from lora_studio.ui.studio import Studio, step_of


def functions(studio: Studio) -> dict[str, Any]:
    """The frame's functions by name, for api.dispatcher."""

    def overview(project: str = "") -> dict[str, Any]:
        running = studio.running()
        busy = {job.project for job in running}
        return {
            "projects": [_line(studio, found, found.slug in busy) for found in Project.all(studio.root)],
            "jobs": [_job(studio, job) for job in running],
            "machine": studio.machine(),
            "project": _current(studio, studio.open(project), running) if project else None,
        }

    def undo(project: str) -> dict[str, Any]:
        return _replayed(studio.open(project), back=True)

    def redo(project: str) -> dict[str, Any]:
        return _replayed(studio.open(project), back=False)

    def trash(project: str) -> dict[str, str]:
        found = studio.open(project)
        name = found.plan.name
        for job in studio.jobs.all(project):
            if job.is_alive:
                studio.jobs.command(job.folder, "stop")
                studio.jobs.wait(job.folder, 20)
        return {"name": name, "path": str(found.trash())}

    def command(project: str, group: str, job: str, word: str) -> None:
        studio.jobs.command(studio.open(project).job_folder(group, job), word)

    return {
        "overview": overview,
        "undo": undo,
        "redo": redo,
        "project.trash": trash,
        "job.command": command,
    }


def _replayed(project: Project, back: bool) -> dict[str, Any]:
    """Its name, and the values that the page can take over (None: it has to read the pictures anew)."""
    done = project.replay(back)
    simple = done is not None and all(field in AS_STORED for _, field, _ in done.values)
    return {
        "label": done.label if done else None,
        "values": done.values if done and simple else None,
        "revision": project.revision,
    }


def _line(studio: Studio, project: Project, busy: bool) -> dict[str, Any]:
    plan = project.plan
    images = studio.images(project)
    used = [image for image in images if image.used]
    first = used[0] if used else None
    return {
        "slug": project.slug,
        "name": plan.name,
        "kind": plan.kind,
        "base": plan.base,
        "pictures": len(used),
        "thumb": {"id": first.id, "v": version(first, plan.background)} if first else None,
        "busy": busy,
    }


def _current(studio: Studio, project: Project, running: list[Job]) -> dict[str, Any]:
    plan = project.plan
    return {
        "slug": project.slug,
        "name": plan.name,
        "kind": plan.kind,
        "trigger": plan.trigger,
        "revision": project.revision,
        "undo": project.undo_label(),
        "steps": studio.states(project, running),
    }


def _job(studio: Studio, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "group": job.folder.parent.name,
        "title": job.title,
        "project": job.project,
        "step": step_of(job),
        "state": job.state,
        **studio.progress(job),
    }
