"""Tagging's helpers: the auto-tagger, captions as files, and what training will read."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import ENDED, Job
from lora_studio.core.project import Project
from lora_studio.core.settings import describe
from lora_studio.steps import tagging
from lora_studio.tagger.config import TagConfig
from lora_studio.ui import guards, pictures
from lora_studio.ui.studio import Studio

Ids = Annotated[list[int], Field(max_length=200_000)]


def functions(studio: Studio) -> dict[str, Any]:
    """What the tagger's panel, the files' dialog and "As trained" call."""
    return {}
