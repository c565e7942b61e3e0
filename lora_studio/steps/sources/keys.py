"""The user's names and keys for sites that ask for one.

They lie in the user's own settings folder in a file that only they can read, by host: never in a project, a job, a log
or a page, and a key of one host is never sent to another.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from platformdirs import user_config_path

from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.steps.sources.addresses import HOST


@dataclass(frozen=True)
class Key:
    """An account: its name or number as the site's interface wants it, and the key (not the password)."""

    user: str
    key: str = field(repr=False)


def path() -> Path:
    """The file of keys: in `LORA_STUDIO_CONFIG`, or in the user's settings folder."""
    named = os.environ.get("LORA_STUDIO_CONFIG")
    folder = Path(named).expanduser() if named else user_config_path("LoRA Studio", appauthor=False)
    return folder / "keys.json"


def get(host: str) -> Key | None:
    """The key for a host such as `gelbooru.com`, None where there is none. Raises UserError when the file is broken."""
    return _read().get(host)


def hosts() -> dict[str, str]:
    """Host and user of all keys that are stored; the keys themselves are not told."""
    return {host: one.user for host, one in _read().items()}


def put(host: str, user: str, key: str) -> None:
    """Store a key for a host in place of an older one. Raises UserError when something is missing."""
    host, user, key = host.strip().lower(), user.strip(), key.strip()
    if not HOST.fullmatch(host):
        raise UserError(f"{host[:80]} is no name of a host.", "Write it like gelbooru.com.")
    if not user or not key or not f"{user}{key}".isprintable():
        raise UserError("A user and a key are needed.", f"Copy both from your account's settings at {host}.")
    _write({**_read(), host: Key(user, key)})


def forget(host: str) -> None:
    """Remove the key for a host."""
    _write({name: one for name, one in _read().items() if name != host})


def _read() -> dict[str, Key]:
    try:
        return {str(host): Key(**one) for host, one in json.loads(path().read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path()} cannot be read.", "Delete it and enter your keys again.") from None


def _write(keys: dict[str, Key]) -> None:
    path().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(path(), json.dumps({host: asdict(one) for host, one in keys.items()}, indent=1))
    path().chmod(0o600)  # it was made so; this is for a file system that forgot
