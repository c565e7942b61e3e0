"""One file of a folder or an archive, before anybody knows what it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from lora_studio.core import images
from lora_studio.core.images import ImageError

SILENT = {"thumbs.db", "desktop.ini"}
SILENT_SUFFIXES = {".npz"}
"""Latents that other trainers leave beside the pictures."""
ARCHIVES = {".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz"}
VIDEOS = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".wmv", ".flv", ".mpg", ".mpeg", ".ts"}


@dataclass(frozen=True)
class Entry:
    """A file: its path within the source, with forward slashes, and its first bytes."""

    name: str
    read: Callable[[int], bytes]
    """At most so many bytes from its beginning. Raises OSError or ImageError."""

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def stem(self) -> str:
        """The path without its ending."""
        return self.name[: len(self.name) - len(self.suffix)]

    def read_picture(self) -> bytes:
        """The whole file, if it begins like a picture. Raises ImageError with the reason, or OSError."""
        images.check_start(self.read(16))
        data = self.read(images.MAX_BYTES + 1)
        if len(data) > images.MAX_BYTES:
            raise ImageError(f"the file is too large (at most {images.MAX_BYTES // 2**20} MB)")
        return data

    def unfit(self) -> str:
        """Why a file of this kind is not taken, told by its name."""
        if self.suffix in ARCHIVES:
            return "an archive of this kind cannot be read; unpack it, or make a zip of it"
        if self.suffix == ".zip":
            return "a zip within a zip; import it by itself"
        if self.suffix in VIDEOS:
            return "a video; take frames out of it with the source Video"
        return ""


def passed_over(name: str) -> bool:
    """Whether a file is left out without a word: hidden, or made by a system or another program for itself."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part not in (".", "..") for part in path.parts)
    return hidden or path.name.lower() in SILENT or path.suffix.lower() in SILENT_SUFFIXES
