"""The import itself: candidates are read, decoded and measured in threads, and stored in small batches, in order.

Whenever it ends, be it by a kill, each picture is in the project as a whole or not at all; importing again goes on.
"""

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lora_studio.core import captions, images
from lora_studio.core.errors import UserError
from lora_studio.core.files import remove_leftovers
from lora_studio.core.images import ImageError
from lora_studio.core.looks import Looks
from lora_studio.core.project import Arrival, Box, Image, Plan, Project
from lora_studio.judge import measures
from lora_studio.steps import looking
from lora_studio.steps.sources.candidate import Candidate, Refused, SourceGone

WORKERS = min(4, os.cpu_count() or 1)
AHEAD = 4
"""Candidates in work for each thread, so that none waits for a slow one before it."""
BATCH, BATCH_BYTES, BATCH_SECONDS = 32, 64 * 2**20, 0.5
"""A batch is stored when it has so many pictures, or so many bytes, or is so old."""
MEMORY = 2**30
"""Bytes that pictures in work may take together, about: one of a hundred megapixels at a time, many small ones."""
PIXEL_BYTES = 10  # the picture itself, its copy while it is turned and coloured, and what is measured of it
PICTURE_BYTES = 64 * 2**20  # reduced copies and arrays of the measures

Report = Callable[[int, int, str], None]
Line = dict[str, Any]
"""`{"name", "result": "added"|"already"|"refused", "reason", "id"}`: what became of one file."""


@dataclass
class Gathered:
    """What an import did."""

    added: int = 0
    already: int = 0
    captions: int = 0
    refused: list[Refused] = field(default_factory=list)
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """`{"added": n, "already": n, "refused": [{"file", "reason", "source"}], ...}`"""
        return asdict(self)


@dataclass(frozen=True)
class Prepared:
    """A candidate that is a whole picture, and all that is stored of it."""

    candidate: Candidate
    arrival: Arrival
    measured: bytes


@dataclass(frozen=True)
class Already:
    """A candidate whose content is in the project."""

    candidate: Candidate
    sha256: str


class Budget:
    """Lets threads take memory, in the order in which their results are waited for: the first in line always may."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._head = limit, 0, 0
        self._changed = threading.Condition()
        self._taken: dict[int, int] = {}
        self._waiting: set[int] = set()
        self._closed = False

    def take(self, place: int, amount: int) -> None:
        """Wait until there is room. Raises UserError once the import has ended."""

        def may() -> bool:
            fits = place == min(self._waiting) and self._used + amount <= self._limit
            return self._closed or place == self._head or fits

        with self._changed:
            self._waiting.add(place)
            self._changed.wait_for(may)
            self._waiting.remove(place)
            if self._closed:
                raise UserError("The import has ended.")
            self._changed.notify_all()  # the next one may fit as well
            self._used += amount
            self._taken[place] = amount

    def shrink(self, place: int, amount: int) -> None:
        """Give back all but `amount`."""
        with self._changed:
            self._used -= self._taken.get(place, 0) - amount
            self._taken[place] = amount
            self._changed.notify_all()

    def advance(self) -> None:
        """The first in line is done; the next one is the first now."""
        with self._changed:
            self._used -= self._taken.pop(self._head, 0)
            self._head += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits for the results any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def take_all(
    project: Project,
    found: Iterable[Candidate | Refused],
    total: Callable[[], int],
    report: Report,
    should_stop: Callable[[], bool],
    tell: Callable[[Line], None],
) -> Gathered:
    """Import what `found` yields; `total` says how many there will be, as far as is known. What was taken is stored
    whatever ends the import: a stop, an error of the source, a full disk (UserError)."""
    work = _Import(project, tell)
    pool = ThreadPoolExecutor(WORKERS, "import")
    done = 0
    try:
        for one in _in_order(work, pool, found, should_stop):
            work.put(one)
            done += 1
            name = one.file if isinstance(one, Refused) else one.candidate.name
            report(done - 1, max(total(), done), name)
        if not work.result.stopped:
            report(done, done, "")
    finally:
        work.budget.close()
        pool.shutdown(wait=False, cancel_futures=True)  # what is being read when a stop comes is of no use any more
        work.store()
    return work.result


def _in_order(
    work: "_Import", pool: ThreadPoolExecutor, found: Iterable[Candidate | Refused], should_stop: Callable[[], bool]
) -> Iterator[Prepared | Already | Refused]:
    """What becomes of the candidates, a few ahead in work, until all are done or a stop is asked for."""
    waiting: deque[Future[Prepared | Already | Refused]] = deque()
    source = iter(found)
    more, lost = True, None
    try:
        while more or waiting:
            while more and len(waiting) < WORKERS * AHEAD and not should_stop():
                try:
                    one = next(source, None)
                except UserError as error:
                    one, lost = None, error  # told once those in work, which it gave before, are done
                more = one is not None
                if one is not None:
                    waiting.append(work.begin(pool, one))
            while waiting and not should_stop():
                if wait([waiting[0]], 0.1).done:
                    yield waiting.popleft().result()
                    work.budget.advance()
                    break
            if should_stop():
                work.result.stopped = more or bool(waiting)
                return
        if lost:
            raise lost
    except UserError:
        if not should_stop():
            raise
        work.result.stopped = True  # a source that was stopped says so by an error


class _Import:
    """One import: what is known of the project, and the batch that is being collected."""

    def __init__(self, project: Project, tell: Callable[[Line], None]) -> None:
        self.project, self.tell = project, tell
        self.result = Gathered()
        self.budget = Budget(MEMORY)
        there = project.images()
        self.known = {image.sha256: image.id for image in there}
        self.posts = _posts(there)
        self.listed = {(row["name"], row["source"]): row["id"] for row in project.quarantined()}
        self.plan = project.plan
        self.place = 0
        self.batch: list[Prepared | Already | Refused] = []
        self.bytes, self.since = 0, 0.0
        for folder in ("originals", "thumbs", "masks"):
            remove_leftovers(project.folder / folder)

    def begin(self, pool: ThreadPoolExecutor, one: Candidate | Refused) -> Future[Prepared | Already | Refused]:
        """Set a candidate to work; what needs none is done at once."""
        place, self.place = self.place, self.place + 1
        done: Future[Prepared | Already | Refused] = Future()
        if isinstance(one, Refused):
            done.set_result(one)
        elif (sha256 := self.posts.get(_post(one))) is not None:
            done.set_result(Already(one, sha256))
        else:
            return pool.submit(self._prepare, one, place)
        return done

    def _prepare(self, candidate: Candidate, place: int) -> Prepared | Already | Refused:
        try:
            data = candidate.read()
            digest = hashlib.sha256(data).hexdigest()
            if digest in self.known:
                return Already(candidate, digest)
            self.budget.take(place, len(data) + PIXEL_BYTES * images.num_pixels(data) + PICTURE_BYTES)
            prepared = _prepared(self.project, candidate, data, digest, self.plan)
        except SourceGone:
            raise
        except (ImageError, OSError, UserError, MemoryError) as error:
            self.budget.shrink(place, 0)
            return Refused(candidate.name, str(error) or type(error).__name__, candidate.source)
        self.budget.shrink(place, len(data))
        return prepared

    def put(self, one: Prepared | Already | Refused) -> None:
        """Add to the batch, and store it when it is full."""
        self.since = self.since if self.batch else time.monotonic()
        self.batch.append(one)
        self.bytes += len(one.arrival.data) if isinstance(one, Prepared) else 0
        old = time.monotonic() - self.since > BATCH_SECONDS
        if len(self.batch) >= BATCH or self.bytes >= BATCH_BYTES or old:
            self.store()

    def store(self) -> None:
        """Write the batch into the project: the pictures, their measures, the list of refused files, the table."""
        batch, self.batch, self.bytes = self.batch, [], 0
        new: dict[str, Prepared] = {}
        for one in batch:
            if isinstance(one, Prepared) and one.arrival.sha256 not in self.known:
                new.setdefault(one.arrival.sha256, one)
        if new:
            key = looking.names(self.project.plan)["measures"]
            Looks(self.project.folder).put(key, {digest: one.measured for digest, one in new.items()})
            self.known |= self.project.add_images([one.arrival for one in new.values()])
            for digest, one in new.items():
                self.posts[_post(one.candidate)] = digest
            self.posts.pop("", None)
        refused = [one for one in batch if isinstance(one, Refused)]
        self.project.quarantine((one.file, one.source, one.reason) for one in refused)
        taken = [(one.candidate.name, one.candidate.source) for one in batch if not isinstance(one, Refused)]
        mended = [self.listed.pop(key) for key in taken if key in self.listed]
        if mended:
            self.project.forget_quarantine(mended)
        for one in batch:
            self._tell(one, new)

    def _tell(self, one: Prepared | Already | Refused, new: dict[str, Prepared]) -> None:
        if isinstance(one, Refused):
            self.result.refused.append(one)
            self.tell({"name": one.file, "result": "refused", "reason": one.reason, "id": None})
            return
        digest = one.arrival.sha256 if isinstance(one, Prepared) else one.sha256
        added = new.get(digest) is one
        if added and isinstance(one, Prepared):
            self.result.added += 1
            self.result.captions += bool(one.arrival.fields["caption"] or one.arrival.fields["prose"])
        else:
            self.result.already += 1
        line = {"name": one.candidate.name, "result": "added" if added else "already", "reason": ""}
        self.tell({**line, "id": self.known.get(digest)})


def _prepared(project: Project, candidate: Candidate, data: bytes, digest: str, plan: Plan) -> Prepared:
    picture = images.decode(data, plan.background)
    found = measures.measure(np.asarray(picture))
    crop, *more = candidate.crops
    caption, prose = captions.parted(candidate.caption, "tags" if candidate.tags else plan.captions)
    fields = {
        "name": candidate.name,
        "width": picture.width,
        "height": picture.height,
        "caption": caption,
        "prose": prose or candidate.prose.strip(),
        "repeats": candidate.repeats,
        "sharpness": float(found.sharpness),
        "phash": found.phash,
        "signature": found.signature,
        "source": candidate.source,
        "url": candidate.url,
        "author": candidate.author,
        "licence": candidate.licence,
        "consent": candidate.consent,
        "origin": json.dumps(candidate.origin, ensure_ascii=False) if candidate.origin else "",
        "decision": candidate.decision,
        "reason": candidate.reason,
        "crop": _json(crop),
        "more_crops": _json(more),
        "mask": project.add_mask(candidate.mask()) if candidate.mask else "",
    }
    extension = images.image_format(data)
    arrival = Arrival(data, digest, extension, images.thumbnail(picture), plan.background, fields)
    return Prepared(candidate, arrival, found.to_bytes())


def _json(value: Box | list[Box | None] | None) -> str | None:
    return json.dumps(value) if value else None


def _post(candidate: Candidate) -> str:
    """What names a post of a site, or the address of a picture that is no post; empty for files."""
    if candidate.origin and candidate.origin.get("post"):
        return f"{candidate.origin.get('site')} {candidate.origin['post']}"
    return candidate.url if not candidate.origin else ""


def _posts(there: list[Image]) -> dict[str, str]:
    """Post or address -> SHA-256 of what came from there, so that nothing is fetched twice."""
    found: dict[str, str] = {}
    for image in there:
        origin = json.loads(image.origin) if image.origin else {}
        if origin.get("post"):
            found[f"{origin.get('site')} {origin['post']}"] = image.sha256
        elif image.url and not origin:
            found[image.url] = image.sha256
    return found
