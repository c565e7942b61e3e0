"""Frames of a video that are worth learning from: sharp ones, spread over its scenes, none twice."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lora_studio.core.images import MAX_PIXELS, ImageError
from lora_studio.judge import measures

LOOK_SIDE = 256
"""Width at which frames are compared and their sharpness measured."""
CUT = 27.0
"""Mean difference of two frames in a row, of 255, from which a new scene begins: PySceneDetect's default for cuts."""
SAME_BITS, SAME_LEVELS = 6, 10.0
"""Two frames are the same picture within these: the hash's bits of 64 and the colour grid's levels of 255, those that
tell near duplicates of a set (judge.dataset)."""


@dataclass(frozen=True)
class Frame:
    """One frame that was chosen."""

    seconds: float
    """From the video's beginning."""
    rgb: NDArray[np.uint8]
    """(H, W, 3), turned as it is meant to be seen."""


@dataclass
class _Best:
    """The sharpest frame since the last one that was taken."""

    seconds: float
    sharpness: float
    gray: NDArray[np.float64]
    frame: av.VideoFrame


def frames(path: Path, seconds: float, limit: int, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Frame]:
    """At most `limit` frames: of each stretch of a scene the sharpest, `seconds` or more from one to the next (more in
    a video too long for the limit, so that they come from all of it), those left out that look like an earlier one.

    Raises ImageError for a file that is no video or is damaged, perhaps after the frames before the damage.
    """
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise ImageError("there are no pictures in this file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if stream.width * stream.height > MAX_PIXELS:
                raise ImageError(f"too many pixels ({stream.width} x {stream.height})")
            length = float(container.duration or 0) / av.time_base
            yield from _chosen(container.decode(stream), seconds, limit, length, should_stop)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"no video known here, or damaged ({str(error)[:80]})") from None


def _chosen(
    decoded: Iterator[av.VideoFrame], seconds: float, limit: int, length: float, should_stop: Callable[[], bool]
) -> Iterator[Frame]:
    seen = _Seen()
    best: _Best | None = None
    begun, now, before, number = 0.0, 0.0, None, 0
    for frame in decoded:
        if should_stop() or number == limit:
            return
        now = float(frame.time) if frame.time is not None else now + 1 / 25
        gray = _gray(frame)
        step = max(seconds, (length - begun) / (limit - number))
        cut = before is not None and gray.shape == before.shape and float(np.abs(gray - before).mean()) > CUT
        if best is not None and (now - begun >= step or (cut and now - begun >= step / 2)):
            if (found := seen.new(best)) is not None:
                number += 1
                yield found
            best, begun = None, now
        sharpness = measures.sharpness(gray / 255)
        if best is None or sharpness > best.sharpness or (cut and now - begun < step / 2):
            best = _Best(now, sharpness, gray, frame)
        before = gray
    if best is not None and number < limit and (found := seen.new(best)) is not None:
        yield found


def _gray(frame: av.VideoFrame) -> NDArray[np.float64]:
    """(h, w) 0..255, about LOOK_SIDE wide."""
    width = min(frame.width, LOOK_SIDE)
    height = max(32, round(frame.height * width / frame.width))
    return frame.reformat(width=width, height=height, format="gray").to_ndarray().astype(np.float64)


class _Seen:
    """The frames taken so far, as far as it needs to know them again."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._colours: list[NDArray[np.float64]] = []

    def new(self, best: _Best) -> Frame | None:
        """The frame in full size, None when one like it was taken."""
        digest = measures.perceptual_hash(best.gray / 255)
        small = best.frame.reformat(width=64, height=64, format="rgb24").to_ndarray()
        colours = small.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
        if self._hashes:
            bits = np.bitwise_count(np.array(self._hashes, np.uint64) ^ np.uint64(digest))
            levels = np.abs(np.stack(self._colours) - colours).max(axis=(1, 2, 3))
            if ((bits <= SAME_BITS) & (levels <= SAME_LEVELS)).any():
                return None
        self._hashes.append(digest)
        self._colours.append(colours)
        rgb = best.frame.to_ndarray(format="rgb24")
        turns = round(best.frame.rotation / 90) % 4  # degrees against the clock
        return Frame(best.seconds, np.ascontiguousarray(np.rot90(rgb, turns)))
