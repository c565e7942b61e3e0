"""Pictures made ready for a model by threads, while the model works on those before them. No torch."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from lora_studio.core import images
from lora_studio.core.images import WHITE, ImageError

THREADS = max(2, min(8, os.cpu_count() or 1))
"""Decoding and resizing let go of Python's lock, so threads are as good as processes here."""
LARGE = 24_000_000
"""Pixels. Of larger pictures one at a time is decoded: 100 million pixels take 300 MB, and as much again to turn."""
_one_large = threading.Lock()


@dataclass(frozen=True)
class Prepared:
    """One entry of a job's list, ready for the models, or the reason why it is not."""

    id: int
    file: str
    ready: Any
    """What `prepare` made of the picture; None where there is a reason."""
    reason: str = ""


def prepared_batches(
    entries: Sequence[dict[str, Any]],
    batch_size: int,
    prepare: Callable[[Image.Image], Any],
    background: str = WHITE,
    threads: int = THREADS,
    draft: int = 0,
) -> Iterator[list[Prepared]]:
    """Batches of `{"id", "file", "crop"}` entries in their order, the last one smaller.

    While a batch is worked on, the next is being made ready; never more than two batches are held, whatever their
    number. A JPEG may come smaller, no side below `draft` pixels, where that is given and it is not cropped. A file
    that cannot be used carries its reason. Close the generator to end it early.
    """
    waiting: deque[Future[Prepared]] = deque()
    left = iter(entries)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    try:
        for entry in islice(left, max(batch_size, threads)):
            waiting.append(pool.submit(_prepared, entry, prepare, background, draft))
        batch: list[Prepared] = []
        while waiting:
            batch.append(waiting.popleft().result())
            for entry in islice(left, 1):
                waiting.append(pool.submit(_prepared, entry, prepare, background, draft))
            if len(batch) == batch_size or not waiting:
                yield batch
                batch = []
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepared(entry: dict[str, Any], prepare: Callable[[Image.Image], Any], background: str, draft: int) -> Prepared:
    try:
        return Prepared(entry["id"], entry["file"], prepare(decoded(entry, background, draft)))
    except ImageError as error:
        return Prepared(entry["id"], entry["file"], None, str(error))


def decoded(entry: dict[str, Any], background: str = WHITE, draft: int = 0) -> Image.Image:
    """The picture of an entry, cut to its `crop` where it has one. Raises ImageError with the reason."""
    try:
        data = Path(entry["file"]).read_bytes() if Path(entry["file"]).stat().st_size <= images.MAX_BYTES else b""
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror or error})") from None
    if not data:
        return images.decode(entry["file"], background)  # empty or too large: it says so
    draft = 0 if entry.get("crop") else draft
    if images.num_pixels(data) > LARGE:
        with _one_large:
            picture = images.decode(data, background, draft)
    else:
        picture = images.decode(data, background, draft)
    if not entry.get("crop"):
        return picture
    left, top, right, bottom = entry["crop"]
    edges = (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
    x0, y0, x1, y1 = (round(edge) for edge in edges)
    return picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
