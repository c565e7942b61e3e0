"""Captions in tag form: tags in order, separated by commas. On clean tags `split` undoes `join`."""

import re
from collections.abc import Iterable

_JAPANESE = re.compile(r"[\u3041-\u30ff]|[\u4e00-\u9fff]{2}")
"""Kana, or two Han characters in a row: accented letters of CP1252 read as CP932 give single Han characters at most."""


def split(caption: str) -> list[str]:
    """Tags in order, blanks trimmed, empty ones and repeats (ignoring case) dropped."""
    return unique(part.strip() for part in caption.replace("\n", ",").split(","))


def join(tags: Iterable[str]) -> str:
    """One caption of the tags, without repeats."""
    return ", ".join(unique(tag.strip().replace(",", " ") for tag in tags))


def unique(tags: Iterable[str]) -> list[str]:
    """The tags in order, each once (ignoring case), empty ones dropped."""
    seen: dict[str, str] = {}
    for tag in tags:
        if tag:
            seen.setdefault(tag.casefold(), tag)
    return list(seen.values())


def with_trigger_first(tags: Iterable[str], trigger: str) -> list[str]:
    """The tags with the trigger word in front; without change when there is no trigger."""
    return unique([trigger, *tags]) if trigger else unique(tags)


def add(caption: str, tags: Iterable[str]) -> str:
    """The caption with `tags` appended where they are missing."""
    return join([*split(caption), *tags])


def remove(caption: str, tags: Iterable[str]) -> str:
    """The caption without `tags` (ignoring case)."""
    gone = {tag.casefold() for tag in tags}
    return join(tag for tag in split(caption) if tag.casefold() not in gone)


def replace(caption: str, old: str, new: Iterable[str]) -> str:
    """The caption with `old` replaced by the tags `new` at its place (ignoring case)."""
    result: list[str] = []
    for tag in split(caption):
        result += list(new) if tag.casefold() == old.casefold() else [tag]
    return join(result)


def decode_text(data: bytes) -> str:
    """Text of a caption file in whichever encoding it was saved: UTF-8 or UTF-16 (with or without mark), else CP932
    where it reads as Japanese, else CP1252. Zero bytes are dropped."""
    return _decoded(data).replace("\0", "")


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    for places, encoding in ((slice(1, None, 2), "utf-16-le"), (slice(0, None, 2), "utf-16-be")):
        if len(data) >= 4 and data[places].count(0) > 0.4 * len(data) / 2:  # Latin letters leave every other byte 0
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        text = data.decode("cp932")
        if _JAPANESE.search(text):
            return text
    except UnicodeDecodeError:
        pass
    return data.decode("cp1252", "replace")
