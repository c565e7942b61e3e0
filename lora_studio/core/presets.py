"""Named settings: TOML files in `presets/`, and those a user saved beside the projects."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.core.files import inside, slug, write_text


@dataclass(frozen=True)
class Preset:
    """One named set of settings; `settings` holds only what differs from the defaults."""

    name: str
    title: str
    description: str
    source: str = ""
    kind: str = ""
    family: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def all_presets(root: Path | None = None) -> list[Preset]:
    """Shipped presets, then the user's own in `root/.presets` when a projects folder is given."""
    folders = [paths.presets(), *([root / ".presets"] if root else [])]
    return [_read(path) for folder in folders for path in sorted(folder.glob("*.toml"))]


def load(name: str, root: Path | None = None) -> Preset:
    """The preset of that name, or the TOML file at that path. Raises UserError naming those there are."""
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return _read(path)
    known = {preset.name: preset for preset in all_presets(root)}
    if name not in known:
        raise UserError(f"There is no preset {name}.", f"Known: {', '.join(known)}; or name a .toml file.")
    return known[name]


def save(root: Path, title: str, settings: dict[str, Any]) -> Preset:
    """Keep the settings under a name of the user's."""
    name = slug(title)
    if name in {path.stem for path in paths.presets().glob("*.toml")}:
        raise UserError(f"{title} is the name of a shipped preset.", "Choose another name.")
    data = {"preset": {"title": title, "description": "Saved by you."}, **_without_none(settings)}
    write_text(inside(root / ".presets", f"{name}.toml"), tomli_w.dumps(data))
    return load(name, root)


def _without_none(data: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in data.items() if v is not None}


def _read(path: Path) -> Preset:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
        return Preset(name=path.stem, **data.pop("preset"), settings=data)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UserError(f"The preset {path.name} cannot be read: {error}.", "Mend or remove the file.") from error
