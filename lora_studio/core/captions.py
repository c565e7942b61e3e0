"""Captions in tag form: tags in order, separated by commas. On clean tags `split` undoes `join`."""

from collections.abc import Iterable


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
    """Text of a caption file in whichever encoding it was saved: UTF-8 (with or without mark), UTF-16, else CP1252."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace").replace("\0", "")
    try:
        return data.decode("utf-8-sig").replace("\0", "")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace").replace("\0", "")
