"""Tagging's view "As trained": captions as training will show them, and what the base makes of the trigger."""

from typing import Annotated, Any

from pydantic import Field

from lora_studio.ui.studio import Studio

Ids = Annotated[list[int], Field(max_length=100)]


def functions(studio: Studio) -> dict[str, Any]:
    """What the view calls."""
    return {}
