"""Captions in tag form: tags in order, separated by commas. On clean tags `split` undoes `join`."""

import re
from collections.abc import Iterable

_JAPANESE = re.compile(r"[\u3041-\u30ff]|[\u4e00-\u9fff]{2}")
"""Kana, or two Han characters in a row: accented letters of CP1252 read as CP932 give single Han characters at most."""
_SENTENCE = re.compile("[.!?。！？]$")
_FACES = "0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||"
KAOMOJI = frozenset(_FACES.split())
"""Booru tags whose underscores are part of a drawn face (the list of the WD taggers)."""
MARKS = ("score_", "rating_", "source_")
"""Beginnings of the marks that Pony's captions hold; the base has read them with their underscores."""
_1252 = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0x100)}
"""Byte -> its sign; the five that have none are read as Latin-1's control signs."""
_BYTE = {sign: byte for byte, sign in _1252.items()}
_TAIL = "[" + "".join(re.escape(_1252[byte]) for byte in range(0x80, 0xC0)) + "]"
"""What the bytes that go on a letter in UTF-8 are read as."""
_UTF8_AS_1252 = re.compile(f"(?:(?:[Â-ß]{_TAIL}){{2,}}|[ÂÃ]{_TAIL}|[à-ï]{_TAIL}{{2}}|[ð-ô]{_TAIL}{{3}})+")
"""A single pair such as `É»` may be meant so; two in a row are not."""
_UTF8_AS_932 = re.compile("[^\\0-\u007f]{2,}")
_CP932_AS_1252 = re.compile("(?:[‚ƒ][^\\s,])+")
"""Kana are the bytes 82 and 83 and one more."""


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


def prose_with_trigger(prose: str, trigger: str) -> str:
    """The sentences with the trigger word in front, where it is nowhere in them."""
    return prose if not trigger or has_word(prose, trigger) else joined(trigger, prose)


def has_word(text: str, word: str) -> bool:
    """Whether the word stands in the text by itself, whatever the case."""
    return word.casefold() in text.casefold() and bool(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    )


def remove(caption: str, tags: Iterable[str]) -> str:
    """The caption without `tags` (ignoring case)."""
    gone = {tag.casefold() for tag in tags}
    return join(tag for tag in split(caption) if tag.casefold() not in gone)


def joined(caption: str, prose: str) -> str:
    """Tags and then sentences, as a base that reads both is shown them."""
    return ", ".join(part for part in (caption, prose) if part)


def parted(text: str, kind: str, caption: str = "", prose: str = "") -> tuple[str, str]:
    """One text from elsewhere as (tags, sentences). `kind` is what the project's captions are: `tags`, `prose` or
    `both`. What was `joined` is parted again with the help of the tags and sentences that are known."""
    text = text.strip()
    if kind == "tags":
        return join(split(text)), prose
    if kind == "prose":
        return caption, text
    if text == joined(caption, prose):
        return caption, prose
    if prose and text.endswith(prose):
        return join(split(text.removesuffix(prose))), prose
    if caption and text.startswith(f"{caption}, "):
        return caption, text.removeprefix(f"{caption}, ").strip()
    pieces, known = text.split(","), {tag.casefold() for tag in split(caption)}
    last = max((place for place, piece in enumerate(pieces, 1) if piece.strip().casefold() in known), default=0)
    if not last and not _SENTENCE.search(text):
        last = len(pieces)
    return join(split(",".join(pieces[:last]))), ",".join(pieces[last:]).strip()


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


def spaced(tag: str) -> str:
    """The tag with blanks for underscores; faces such as `^_^` and marks such as `score_9` stay as they are."""
    return tag if tag in KAOMOJI or tag.startswith(MARKS) else " ".join(tag.replace("_", " ").split())


def repaired(text: str) -> str:
    """The text with signs put right that were read in the wrong encoding: `cafÃ©` is `café`. What cannot be told for
    certain stays as it is."""
    for _ in range(3):  # some texts went wrong several times over
        better = _CP932_AS_1252.sub(lambda match: _reread(_bytes_1252(match[0]), "cp932", match[0], kana=2), text)
        better = _UTF8_AS_1252.sub(lambda match: _reread(_bytes_1252(match[0]), "utf-8", match[0]), better)
        better = _UTF8_AS_932.sub(_reread_932, better)
        if better == text:
            break
        text = better
    return text


def _reread_932(match: re.Match[str]) -> str:
    try:
        return _reread(match[0].encode("cp932"), "utf-8", match[0], kana=1)
    except UnicodeEncodeError:
        return match[0]


def _bytes_1252(text: str) -> bytes:
    return bytes(_BYTE.get(sign, ord(sign) if ord(sign) < 0x80 else 0xFF) for sign in text)


def _reread(data: bytes, encoding: str, otherwise: str, kana: int = 0) -> str:
    """The bytes in that encoding; `otherwise` where they are none, or give fewer kana than asked for."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return otherwise
    return text if len(re.findall("[\u3041-\u30ff]", text)) >= kana else otherwise
