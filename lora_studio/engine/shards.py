"""Many small tensors kept on disk: a few safetensors files (shards) of many entries each, and an index over them.

A shard is written whole under a name of its own and never changed, so that readers and other processes filling the
same folder cannot disturb each other. The index only saves reading the heads of the shards: one that is lost, old or
damaged is made anew from them. Every entry has a checksum; a shard that cannot be read, or holds something else than
was written, is dropped, and what it held counts as not kept. The time of a shard's file is its last use.
"""

import contextlib
import json
import os
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.files import atomic_path, write_text

SHARD_ENTRIES = 64
SHARD_BYTES = 64 * 2**20
FLUSH_SECONDS = 30.0  # a kill costs at most about this much work
OPEN_SHARDS = 8  # mapped into memory at once; opening one takes a quarter of a millisecond
LOCK_SECONDS = 30.0
LEFTOVER_SECONDS = 3600.0  # an unfinished file this old belongs to nobody any more
FORMAT = 1  # of shards and index; raise when either changes

Entry = dict[str, Tensor]
Sums = dict[str, dict[str, int]]
"""CRC-32 of every tensor by entry and name."""


@dataclass
class _Shard:
    size: int
    keys: list[str]


class Shards:
    """One run's view of a folder of shards. What it has asked for or added is never evicted by it."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit = folder, limit_bytes
        self._shards: dict[str, _Shard] = {}
        self._where: dict[str, str] = {}  # entry -> shard
        self._used: set[str] = set()
        self._open: OrderedDict[str, tuple[Any, Sums]] = OrderedDict()
        self._new: dict[str, Entry] = {}
        self._new_bytes = 0
        self._flushed = time.monotonic()
        self._read_index()
        if self.refresh():
            with self._lock():
                self._write_index()

    def __len__(self) -> int:
        return len(self._where.keys() | self._new.keys())

    # --- reading ---------------------------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Whether the entry is kept. Asking marks it as needed by this run."""
        if key in self._new:
            return True
        shard = self._where.get(key)
        if shard is not None:
            self._use(shard)
        return shard is not None

    def read(self, key: str) -> Entry | None:
        """The tensors kept under this key, copied out; None when there are none or they are damaged."""
        if key in self._new:
            return {name: value.clone() for name, value in self._new[key].items()}
        if not self.has(key):
            return None
        shard = self._where[key]
        entry = self._entry(shard, key)
        if entry is None:
            self._salvage(shard)
        return entry

    def _entry(self, shard: str, key: str) -> Entry | None:
        """An entry out of a shard; None when it is not what was written."""
        try:
            opened, sums = self._opened(shard)
            entry = {name: opened.get_tensor(f"{key}.{name}").clone() for name in sums[key]}
            whole = all(checksum(value) == sums[key][name] for name, value in entry.items())
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return entry if whole else None

    def _salvage(self, shard: str) -> None:
        """Drop a damaged shard; what is whole in it is written again with the next."""
        whole = {key: entry for key in self._shards[shard].keys if (entry := self._entry(shard, key)) is not None}
        self._drop(shard)
        for key, entry in whole.items():
            self.add(key, entry)

    def discard(self, key: str) -> None:
        """Drop the shard that holds this entry: what it says is not to be believed."""
        if key in self._where:
            self._drop(self._where[key])

    def _opened(self, shard: str) -> tuple[Any, Sums]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        self._open[shard] = _open(self.folder / shard)
        while len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[shard]

    def _use(self, shard: str) -> None:
        if shard not in self._used:
            self._used.add(shard)
            with contextlib.suppress(OSError):  # gone or not ours: reading it will tell
                os.utime(self.folder / shard)

    # --- writing ---------------------------------------------------------------------------------------------------

    def add(self, key: str, entry: Mapping[str, Tensor]) -> None:
        """Keep tensors under this key; on disk when a shard is full or `flush` is called. Raises UserError when the
        disk is full."""
        self._new[key] = {name: value.detach().cpu().contiguous().clone() for name, value in entry.items()}
        self._new_bytes += sum(value.nbytes for value in self._new[key].values())
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if len(self._new) >= SHARD_ENTRIES or self._new_bytes >= SHARD_BYTES or late:
            self.flush()

    def flush(self) -> None:
        """Write what was added since; what another process has written meanwhile is not written twice."""
        if self._new:
            with self._lock():
                self.refresh()
                pending = {key: entry for key, entry in self._new.items() if key not in self._where}
                if pending:
                    self._write(pending)
                for key in self._new:
                    self._use(self._where[key])
                self._new, self._new_bytes = {}, 0
                self._write_index()
        self._flushed = time.monotonic()

    def _write(self, entries: Mapping[str, Entry]) -> None:
        name = f"shard-{uuid.uuid4().hex}.safetensors"
        tensors = {f"{key}.{part}": value for key, entry in entries.items() for part, value in entry.items()}
        sums = {key: {part: checksum(value) for part, value in entry.items()} for key, entry in entries.items()}
        data = save(tensors, metadata={"format": str(FORMAT), "crc32": json.dumps(sums)})
        with atomic_path(self.folder / name) as temporary:
            temporary.write_bytes(data)
        self._learn(name, _Shard(len(data), list(entries)))

    def evict(self) -> int:
        """Remove the shards that were longest unused, none of this run's, until all fit into the limit. Returns how
        many bytes the rest is over it."""
        self.flush()
        if not self.folder.is_dir():
            return 0
        with self._lock():
            changed = self.refresh()
            total = sum(shard.size for shard in self._shards.values())
            times = {name: _modified(self.folder / name) for name in self._shards if name not in self._used}
            for name in sorted(times, key=lambda name: (times[name], name)):
                if total <= self.limit:
                    break
                total -= self._shards[name].size
                self._drop(name)
                changed = True
            if changed:
                self._write_index()
        return max(0, total - self.limit)

    # --- what there is ---------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Learn of shards written or removed by others. Returns whether anything had changed."""
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for item in entries:
                if item.name.startswith("shard-") and item.name.endswith(".safetensors"):
                    with contextlib.suppress(FileNotFoundError):
                        found[item.name] = item.stat().st_size
                elif item.name.startswith(".new-"):
                    _remove_leftover(Path(item.path))
        gone = [name for name, shard in self._shards.items() if found.get(name) != shard.size]
        for name in gone:
            self._drop(name)
        new = found.keys() - self._shards.keys() - set(gone)
        for name in sorted(new):
            try:
                _, sums = _open(self.folder / name)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError):
                self._drop(name)
            else:
                self._learn(name, _Shard(found[name], list(sums)))
        return bool(gone or new)

    def _learn(self, name: str, shard: _Shard) -> None:
        self._shards[name] = shard
        for key in shard.keys:
            self._where[key] = name

    def _drop(self, name: str) -> None:
        """Forget a shard and remove its file."""
        self._open.pop(name, None)
        self._used.discard(name)
        shard = self._shards.pop(name, None)
        for key in shard.keys if shard else ():
            if self._where.get(key) == name:
                del self._where[key]
        with contextlib.suppress(OSError):  # another process may be reading it (Windows) or has removed it
            (self.folder / name).unlink()

    def _read_index(self) -> None:
        try:
            index = json.loads((self.folder / "index.json").read_text("utf-8"))
            if index["format"] == FORMAT:
                for name, (size, keys) in index["shards"].items():
                    self._learn(name, _Shard(int(size), [str(key) for key in keys]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._shards, self._where = {}, {}

    def _write_index(self) -> None:
        index = {name: (shard.size, shard.keys) for name, shard in self._shards.items()}
        with contextlib.suppress(UserError):  # the heads of the shards say the same
            write_text(self.folder / "index.json", json.dumps({"format": FORMAT, "shards": index}))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time writes or removes. Not waited for without end: nothing can be damaged without it,
        only written twice."""
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_SECONDS)
        except (Timeout, OSError, NotImplementedError):
            pass
        try:
            yield
        finally:
            lock.release()


def checksum(value: Tensor) -> int:
    """CRC-32 of the bytes of a contiguous CPU tensor."""
    return zlib.crc32(value.reshape(-1).view(torch.uint8).numpy())


def _open(path: Path) -> tuple[Any, Sums]:
    """A mapped shard and its checksums. Raises one of several errors when it is none."""
    opened = safe_open(path, framework="pt")
    metadata = opened.metadata()
    if metadata["format"] != str(FORMAT):
        raise ValueError("another format")
    sums = json.loads(metadata["crc32"])
    return opened, {str(key): dict(parts) for key, parts in sums.items()}


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove_leftover(path: Path) -> None:
    """Remove an unfinished file of a process that was killed."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
            path.unlink()
