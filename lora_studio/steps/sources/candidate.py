"""What a source yields: files that may be pictures, and those that it knows to be none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_studio.core.errors import UserError
from lora_studio.core.project import Box


@dataclass(frozen=True)
class Refused:
    """One file that was not taken, and why."""

    file: str
    reason: str
    source: str = ""


@dataclass(frozen=True)
class Candidate:
    """A file that may be a picture, and what its source knows of it."""

    name: str
    """As shown in the table of results, and kept as the picture's name."""
    source: str
    """Folder, archive, address or site."""
    read: Callable[[], bytes]
    """Its bytes. May raise OSError, ImageError or UserError: the file is then refused with that reason. Called once,
    and perhaps in another thread."""
    caption: str = ""
    """Tags or sentences, as its files have them."""
    repeats: int = 1
    url: str = ""
    author: str = ""
    licence: str = ""
    consent: str = ""
    origin: dict[str, Any] | None = None
    """What the site said: `{"site", "post", "rating", "tags": {kind: [tag]}}`. A post is fetched once."""
    decision: str = "new"
    reason: str = ""
    crops: tuple[Box | None, ...] = (None,)
    mask: Callable[[], bytes] | None = None
    """Its mask as PNG, where it has one."""
    tags: bool = False
    """Whether the caption is tags for certain."""
    prose: str = ""
    """Sentences, where the source tells them from the caption."""


class SourceGone(UserError):
    """The source as a whole cannot be read any more (a disk pulled out, a site that refuses): the import ends here.

    Any source may raise it, in its iteration or in `read`; what was taken before is kept.
    """
