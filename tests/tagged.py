"""A tagging that has ended, without the seconds that a tagger takes: its folder as the job leaves it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_studio.core.jobs import Jobs
from lora_studio.core.project import Project
from lora_studio.steps import tagging
from lora_studio.tagger.config import TagConfig


def tagged(project: Project, jobs: Jobs, answers: Mapping[int, Sequence[str] | str]) -> Path:
    """A stopped tagging of all used pictures: `answers` has tags by picture, or a reason why it failed."""
    data = tagging.tag_job(project, TagConfig()).to_dict()
    folder = project.new_folder("jobs", "tag")
    jobs.prepare(folder, tagging.TARGET, data, "Auto-tagging", project.slug)
    lines = [
        {"id": image_id, "tags": [], "error": said}
        if isinstance(said, str)
        else {"id": image_id, "tags": [[tag, 0.9, "general"] for tag in said]}
        for image_id, said in answers.items()
    ]
    (folder / tagging.RESULTS).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder
