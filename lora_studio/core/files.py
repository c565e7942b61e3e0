"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import hashlib
import os
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_studio.core.errors import UserError

MANY = 500
"""Files from which on all that waits is written to the disk at once, rather than file by file at milliseconds each."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is synced and renamed over `path`, on failure removed.

    Raises UserError when the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".new-", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Free some disk space or check that the folder can be written, then try again; the old file is untouched.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the system write the names in a folder to the disk itself, so that what is renamed later cannot get there
    sooner. Where it cannot be done (Windows, some network disks) nothing depends on it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each wholly or not at all. They are synced together, which takes a fraction of the time
    that one after the other does. Raises UserError when the disk is full or a folder cannot be written."""
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".new-", suffix=".part", dir=path.parent)
            staged[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
        if len(staged) > MANY and hasattr(os, "sync"):
            os.sync()
        else:
            for temporary in staged.values():
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
        for path, temporary in staged.items():
            os.replace(temporary, path)
        for folder in {path.parent for path in staged}:
            sync_folder(folder)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Free some disk space or check that the folder can be written, then try again.",
        ) from error
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, seconds: float = 3600) -> None:
    """Remove half-written files that a killed program left in `folder`: those untouched for so long, so that one who
    is writing there now is not disturbed."""
    for path in folder.glob(".new-*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused with UserError when it would lie outside `folder` (`../`, absolute, links)."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{name} lies outside {folder.name}.", "Name a file inside the project.")
    return path


def slug(name: str) -> str:
    """ASCII folder name for a title: `Ünï 中文 (x)` -> `uni-x`; `project` when nothing is left."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = "".join(letter if letter.isalnum() else " " for letter in text).split()
    return "-".join(words)[:60].strip("-") or "project"
