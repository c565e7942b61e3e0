"""Where things lie: what ships with the program, and where the user's projects go."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

ROOT = Path(__file__).resolve().parents[2]


def assets() -> Path:
    """Folder of the starter model, its tagger and the sample projects."""
    return ROOT / "assets"


def presets() -> Path:
    """Folder of the named settings."""
    return ROOT / "presets"


def default_projects() -> Path:
    """Projects folder when none is named: `LORA_STUDIO_PROJECTS`, or the user's data folder."""
    named = os.environ.get("LORA_STUDIO_PROJECTS")
    return Path(named).expanduser().resolve() if named else user_data_path("LoRA Studio", appauthor=False) / "projects"


def cache() -> Path:
    """Where lies what can be computed again and belongs to no project: `LORA_STUDIO_CACHE`, or the user's cache."""
    named = os.environ.get("LORA_STUDIO_CACHE")
    return Path(named).expanduser().resolve() if named else user_cache_path("LoRA Studio", appauthor=False)


def resolve_base(base: str) -> str:
    """The folder of the starter for `starter`; any other base is a path or a hub name and is returned as it is."""
    return str(assets() / "starter" / "base") if base == "starter" else base
