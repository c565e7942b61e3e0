"""Settings of an import: where the pictures come from. The form, the command line and the job read them off here."""

from typing import Literal

from pydantic import Field, field_validator

from lora_studio.core.settings import Settings, SettingsError, only

Kind = Literal["paths", "urls", "booru", "video", "project", "hub"]
NEEDED: dict[Kind, tuple[str, str]] = {
    "paths": ("paths", "name a folder, a zip or files with pictures in them"),
    "urls": ("urls", "write one address a line"),
    "booru": ("tags", "write at least one tag, or the whole site would be asked for"),
    "video": ("paths", "name a video file"),
    "project": ("project", "name the project to take pictures from"),
    "hub": ("dataset", "write it as OWNER/NAME"),
}
"""What must be filled in for each kind, and what to say where it is not."""


class SourceConfig(Settings):
    """Where pictures come from, and what is known of all of them. A key for a site's interface is none of these: it
    is kept in the user's own settings, never in a project."""

    kind: Kind = "paths"
    """Files and folders of this machine, a list of addresses, a picture board, a video, another project, or a data
    set of the Hugging Face hub."""
    paths: tuple[str, ...] = only("kind=paths|video", default=())
    """Files, folders and zips of this machine, one a line."""
    urls: tuple[str, ...] = only("kind=urls", default=())
    """Addresses of pictures, one a line; what follows a # after a blank is a comment."""
    site: Literal["danbooru", "gelbooru", "safebooru", "e621", "moebooru"] = only("kind=booru", default="danbooru")
    """The board, or the board whose language the server below speaks."""
    server: str = only("kind=booru", default="", max_length=300)
    """Address of another server that speaks the board's language; empty for the board itself."""
    tags: str = only("kind=booru", default="", max_length=1000)
    """What to search for, in the board's own words: tags with underscores, separated by blanks."""
    rating: Literal["any", "safe", "questionable", "explicit"] = only("kind=booru", default="safe")
    """Which posts are taken, by the board's own rating."""
    limit: int = only("kind=booru|hub", default=100, ge=1, le=10_000)
    """At most so many pictures."""
    user: str = only("kind=booru", default="", max_length=100)
    """Your name on the board, where it asks for one."""
    seconds: float = only("kind=video", default=2.0, ge=0, le=3600)
    """At least so many seconds lie between two frames; 0 takes all that differ."""
    frames: int = only("kind=video", default=60, ge=1, le=5000)
    """At most so many frames of each video: the sharpest, spread over its scenes."""
    project: str = only("kind=project", default="", max_length=200)
    """The project to take pictures from, with captions, decisions, crops, masks and origins."""
    dataset: str = only("kind=hub", default="", max_length=300)
    """Name of a data set on the hub, OWNER/NAME or OWNER/NAME@REVISION."""
    author: str = Field("", max_length=2000)
    """Author of all that comes from here, where the source names none."""
    licence: str = Field("", max_length=2000)
    """Licence of all that comes from here, where the source names none."""
    consent: str = Field("", max_length=2000)
    """Note on the consent of those shown, or of the author."""

    @field_validator("paths", "urls")
    @classmethod
    def _no_blank_lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(line.strip() for line in lines if line.strip())

    def check(self) -> None:
        """Raises SettingsError when what this kind of source cannot do without is empty."""
        name, words = NEEDED[self.kind]
        value = getattr(self, name)
        if not value or (isinstance(value, str) and not value.strip()):
            raise SettingsError([f"{name}: is empty; {words}"])
