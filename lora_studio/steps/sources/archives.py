"""Zips: what is in one, bounded in time and memory whatever its author meant. Nothing is ever unpacked to disk."""

import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from lora_studio.core.images import MAX_BYTES, ImageError
from lora_studio.steps.sources.candidate import Refused
from lora_studio.steps.sources.entries import Entry, passed_over

MAX_MEMBERS = 50_000
MAX_DIRECTORY = 16 * 2**20
"""Bytes of the table of contents: 50,000 members with names of 280 letters. Reading it takes about a second."""
MAX_GROWTH = 50
"""A zip of pictures unpacks to about its own size, one of bitmaps to a few times that."""
FREE = 2**30
"""So much may a small zip unpack to in any case."""
END = b"PK\x05\x06"
END_BYTES = 22
LARGE_BYTES = 56  # of the zip64 record, which lies before its locator of 20 bytes
BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zipfile.zlib.error, struct.error, OSError)


def entries(path: Path, name: str = "") -> Iterator[Entry | Refused]:
    """The files in a zip; `name` is put before theirs, for a zip within a folder. A zip that is broken, too large or
    made to harm is refused as a whole and by name."""
    label = name or path.name
    try:
        reason = _trouble(path)
        archive = None if reason else zipfile.ZipFile(path)  # closed with the last entry that reads from it
    except BROKEN as error:
        yield Refused(label, f"damaged or not a zip file ({str(error)[:80] or type(error).__name__})")
        return
    members = [info for info in archive.infolist() if not info.is_dir()] if archive else []
    reason = reason or _bomb(path, members)
    if reason or archive is None:
        yield Refused(label, reason)
        return
    for info in members:
        inner = info.filename.replace("\\", "/")
        shown = f"{name}/{inner}" if name else inner
        parts = inner.split("/")
        if passed_over(inner) or "__MACOSX" in parts:
            continue
        if inner.startswith("/") or ".." in parts or ":" in parts[0]:
            yield Refused(info.filename, "its path points outside the zip")
        elif stat.S_ISLNK(info.external_attr >> 16):
            yield Refused(shown, "a link, not a file")
        elif info.flag_bits & 1:
            yield Refused(shown, "locked with a password")
        else:
            yield Entry(shown, lambda limit, info=info: _read(archive, info, limit))


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """A member's first bytes; never more than its entry claims."""
    if info.file_size > MAX_BYTES:
        raise ImageError(f"the file is too large (at most {MAX_BYTES // 2**20} MB)")
    try:
        with archive.open(info) as file:
            return file.read(limit)
    except BROKEN as error:
        raise ImageError(f"damaged inside the zip ({str(error)[:80] or type(error).__name__})") from None


def _trouble(path: Path) -> str:
    """Why the table of contents is not even to be read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**16 - END_BYTES))
        tail = file.read()
        place = tail.rfind(END)
        if place < 0 or len(tail) - place < END_BYTES:
            return "damaged or not a zip file"
        count, length = struct.unpack_from("<HI", tail, place + 10)
        before = size - len(tail) + place - 20 - LARGE_BYTES
        if (count == 0xFFFF or length == 0xFFFFFFFF) and before >= 0:
            file.seek(before)
            record = file.read(LARGE_BYTES)
            if record.startswith(b"PK\x06\x06"):
                count, length = struct.unpack_from("<QQ", record, 32)
    if count > MAX_MEMBERS or length > MAX_DIRECTORY:
        return f"it holds {count} files; split it: at most {MAX_MEMBERS} in one zip"
    return ""


def _bomb(path: Path, members: list[zipfile.ZipInfo]) -> str:
    """Why the members are not to be unpacked."""
    size = path.stat().st_size
    if len(members) > MAX_MEMBERS:  # more than its end claims
        return f"it holds {len(members)} files; split it: at most {MAX_MEMBERS} in one zip"
    if sum(info.compress_size for info in members) > size:
        return "its files lie over one another: a zip made to fill disks"
    unpacked = sum(info.file_size for info in members)
    if unpacked > FREE + MAX_GROWTH * size:
        return f"it would unpack to {unpacked / 2**30:.0f} GB: a zip made to fill disks"
    return ""
