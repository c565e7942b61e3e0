"""Frames of videos."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.core.images import ImageError
from lora_studio.steps.sources import local
from lora_studio.steps.sources.candidate import Candidate, Refused
from lora_studio.steps.sources.entries import VIDEOS

if TYPE_CHECKING:
    from lora_studio.vision.video import Frame


def candidates(
    paths: Iterable[Path], seconds: float, frames: int, should_stop: Callable[[], bool]
) -> Iterator[Candidate | Refused]:
    """The chosen frames of video files, and of the videos straight in folders. A broken video is named; what lies
    before the damage is taken. Raises UserError for a path that does not exist."""
    from lora_studio.vision import video  # here, for it imports PyAV

    for path in paths:
        source = path.expanduser()
        if not source.exists():
            raise UserError(f"{source} does not exist.", "Check the path.")
        files = [source]
        if source.is_dir():
            files = sorted(one for one in source.iterdir() if one.suffix.lower() in VIDEOS)
        for file in files:
            origin = local.shown(file.parent) if local.shown(file.parent) == "upload" else str(file)
            try:
                for frame in video.frames(file, seconds, frames, should_stop):
                    yield Candidate(_name(file, frame), origin, lambda frame=frame: _png(frame))
            except ImageError as error:
                yield Refused(file.name, str(error), origin)


def _name(file: Path, frame: "Frame") -> str:
    minutes, rest = divmod(frame.seconds, 60)
    return f"{file.stem} {int(minutes):02d}m{rest:06.3f}s.png"


def _png(frame: "Frame") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame.rgb).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
