"""What picture boards answer, read into one form. Each board's language is a small class with the same four names.

Formats as of 2026, from the sites' own help pages: danbooru.donmai.us/wiki_pages/help:api, e621.net/wiki_pages/2425,
gelbooru.com (howto:api), api.rule34.xxx (dapi), konachan.com/help/api.
"""

import html
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from lora_studio.core.errors import UserError
from lora_studio.steps.sources import keys, net

Tags = dict[str, list[str]]
"""Tags by kind, as the board writes them: `{"artist": [...], "character": [...], "general": [...]}`."""
KINDS = ("artist", "copyright", "character", "species", "general", "meta")
KIND_NUMBERS = {"0": "general", "1": "artist", "3": "copyright", "4": "character", "5": "meta", "6": "general"}
"""Gelbooru's types of tags; 6 is deprecated."""
OTHER_NAMES = {"tag": "general", "metadata": "meta", "deprecated": "general", "": "general"}
WORDS = {"g": "safe", "general": "safe", "safe": "safe", "s": "safe", "sensitive": "sensitive"}
WORDS |= {"q": "questionable", "questionable": "questionable", "e": "explicit", "explicit": "explicit"}
LETTERS = MappingProxyType({"safe": "rating:s", "questionable": "rating:q", "explicit": "rating:e"})
WHOLE_WORDS = MappingProxyType({"questionable": "rating:questionable", "explicit": "rating:explicit"})
"""What finds the posts of a rating on most boards."""


@dataclass(frozen=True)
class Post:
    """One post of a board. `url` is empty when the board does not give the picture away."""

    id: int
    url: str
    rating: str
    """`safe`, `sensitive` (Danbooru and Gelbooru only), `questionable`, `explicit`, or empty."""
    tags: Tags
    source: str
    """Where its uploader has it from; empty or an address, sometimes words."""
    page: str


@dataclass(frozen=True)
class Board:
    """A server to ask, as whom, and for what."""

    server: str
    key: keys.Key | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def login(self) -> tuple[str, str] | None:
        """Name and key for boards that take them beside the address."""
        return (self.key.user, self.key.key) if self.key else None

    @property
    def secret(self) -> dict[str, str]:
        """Number and key for boards that want them in the address."""
        return {"user_id": self.key.user, "api_key": self.key.key} if self.key else {}


class Api(Protocol):
    """A board's language."""

    per_page: int
    """The most posts that one answer holds."""
    ratings: Mapping[str, str]
    """What to search for to get posts of one rating only."""

    def posts(self, fetch: net.Client, board: Board, tags: str, page: str) -> list[Post]:
        """One page of posts; `page` is 1, 2, ... or what `after` gave. Raises UserError."""
        ...

    def after(self, page: str, tags: str, posts: list[Post]) -> str:
        """The page behind this one."""
        ...


class _Numbered:
    """Boards whose pages are counted."""

    def after(self, page: str, tags: str, posts: list[Post]) -> str:
        return str(int(page) + 1)


class _BeforeId:
    """Boards that go on before the last post seen: this way nothing is doubled or missed when posts are added
    meanwhile, and there is no last page. A search with an order of its own has to be counted."""

    def after(self, page: str, tags: str, posts: list[Post]) -> str:
        if "order:" in tags or "ordfav:" in tags or "random:" in tags:
            return str(int(page) + 1)
        return f"b{min(post.id for post in posts)}"


class Danbooru(_BeforeId):
    """Danbooru 2 and its kin: `/posts.json`, a list of posts with `tag_string_<kind>`."""

    per_page = 200
    ratings = MappingProxyType({**LETTERS, "safe": "rating:g"})

    def posts(self, fetch: net.Client, board: Board, tags: str, page: str) -> list[Post]:
        query = {"tags": tags, "limit": str(self.per_page), "page": page}
        answer = fetch.json(f"{board.server}/posts.json", params=query, login=board.login, headers=board.headers)
        found = []
        for one in _list(answer):
            tags_of = {kind: str(one.get(f"tag_string_{kind}") or "").split() for kind in KINDS}
            rating = "sensitive" if one.get("rating") == "s" else _rating(one)
            found.append(_post(one, board, _text(one, "file_url"), rating, tags_of, f"/posts/{one.get('id')}"))
        return found


class E621(_BeforeId):
    """e621 and its kin: `/posts.json`, `{"posts": [...]}` with `file`, `tags` by kind and `sources`."""

    per_page = 320
    ratings = LETTERS

    def posts(self, fetch: net.Client, board: Board, tags: str, page: str) -> list[Post]:
        query = {"tags": tags, "limit": str(self.per_page), "page": page}
        answer = fetch.json(f"{board.server}/posts.json", params=query, login=board.login, headers=board.headers)
        found = []
        for one in _list(answer, "posts"):
            url = _text(one.get("file"), "url")
            tags_of = {kind: [str(tag) for tag in some] for kind, some in dict(one.get("tags") or {}).items()}
            source = {"source": next((str(text) for text in one.get("sources") or ()), "")}
            found.append(_post({**one, **source}, board, url, _rating(one), tags_of, f"/posts/{one.get('id')}"))
        return found


class Gelbooru(_Numbered):
    """Gelbooru: `index.php?page=dapi`, `{"@attributes": ..., "post": [...]}` with all tags in one text; their kinds are
    asked for separately, and each tag once."""

    per_page = 100
    ratings = MappingProxyType({**WHOLE_WORDS, "safe": "rating:general"})

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def posts(self, fetch: net.Client, board: Board, tags: str, page: str) -> list[Post]:
        query = {"s": "post", "tags": tags, "limit": str(self.per_page), "pid": str(int(page) - 1)}
        listed = _list(_dapi(fetch, board, query), "post")
        names = {tag for one in listed for tag in _split(one.get("tags"))}
        self._learn(fetch, board, sorted(names - self._kinds.keys()))
        found = []
        for one in listed:
            tags_of: Tags = {}
            for tag in _split(one.get("tags")):
                tags_of.setdefault(self._kinds.get(tag, "general"), []).append(tag)
            where = f"/index.php?page=post&s=view&id={one.get('id')}"
            found.append(_post(one, board, _text(one, "file_url"), _rating(one), tags_of, where))
        return found

    def _learn(self, fetch: net.Client, board: Board, names: list[str]) -> None:
        for start in range(0, len(names), 100):
            some = " ".join(names[start : start + 100])
            for one in _list(_dapi(fetch, board, {"s": "tag", "names": some, "limit": "100"}), "tag"):
                self._kinds[html.unescape(str(one.get("name")))] = KIND_NUMBERS.get(str(one.get("type")), "general")


class Gelbooru02(_Numbered):
    """Gelbooru 0.2, which Safebooru and many others run: a bare list, or XML where JSON is not known. Some tell the
    kinds of tags when asked for `tag_info`; where they do not, all tags count as general."""

    per_page = 100
    ratings = MappingProxyType({**WHOLE_WORDS, "safe": "-rating:questionable -rating:explicit"})

    def posts(self, fetch: net.Client, board: Board, tags: str, page: str) -> list[Post]:
        query = {"s": "post", "tags": tags, "limit": str(self.per_page), "pid": str(int(page) - 1)}
        found = []
        for one in _list(_dapi(fetch, board, {**query, "fields": "tag_info"}), "post"):
            tags_of: Tags = {}
            info = one.get("tag_info")
            kinds = {html.unescape(str(tag.get("tag"))): str(tag.get("type")) for tag in info or () if tag}
            for tag in _split(one.get("tags")):
                kind = kinds.get(tag, "")
                tags_of.setdefault(OTHER_NAMES.get(kind, kind), []).append(tag)
            url = _text(one, "file_url")
            if not url and one.get("directory") and one.get("image"):
                url = f"{board.server}/images/{one['directory']}/{one['image']}"
            where = f"/index.php?page=post&s=view&id={one.get('id')}"
            found.append(_post(one, board, url, _rating(one), tags_of, where))
        return found


class Moebooru(_Numbered):
    """yande.re, Konachan and their kin: `/post.json`; version 2 also tells the kinds of all tags on the page."""

    per_page = 100
    ratings = LETTERS

    def posts(self, fetch: net.Client, board: Board, tags: str, page: str) -> list[Post]:
        query = {"tags": tags, "limit": str(self.per_page), "page": page, "api_version": "2", "include_tags": "1"}
        answer = fetch.json(f"{board.server}/post.json", params=query, headers=board.headers)
        kinds = dict(answer.get("tags") or {}) if isinstance(answer, dict) else {}
        found = []
        for one in _list(answer, "posts"):
            tags_of: Tags = {}
            for tag in _split(one.get("tags")):
                tags_of.setdefault(str(kinds.get(tag, "general")), []).append(tag)
            found.append(
                _post(one, board, _text(one, "file_url"), _rating(one), tags_of, f"/post/show/{one.get('id')}")
            )
        return found


def _dapi(fetch: net.Client, board: Board, query: Mapping[str, str]) -> Any:
    """An answer of Gelbooru's interface, JSON or XML; nothing found is an empty answer."""
    address = f"{board.server}/index.php"
    params = {"page": "dapi", "q": "index", "json": "1", **query}
    answer = fetch.get(address, params=params, secret=board.secret, headers=board.headers, limit=net.MAX_JSON)
    text = answer.data.strip()
    if text.startswith(b"<"):
        return _xml(text)
    return net.read_json(text, address) if text else []


def _xml(text: bytes) -> list[dict[str, Any]]:
    """`<posts><post id=".." tags=".."/></posts>`, with attributes or with elements, as a list. No entities of its own
    making are read: a bomb of them is refused."""
    if b"<!ENTITY" in text.upper() or b"<!DOCTYPE" in text.upper():
        raise UserError("The board answers with a page, not with posts.", "Check the address of the server.")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        raise UserError("The board's answer is damaged.", "Try again later.") from None
    if root.tag in ("response", "error"):
        raise UserError(f"The board says: {said(root.get('reason') or root.text or '')}", "Check tags and key.")
    return [{**{part.tag: part.text or "" for part in one}, **one.attrib} for one in root]


def _list(answer: Any, name: str = "") -> list[dict[str, Any]]:
    """The posts of an answer: a list, or an object that holds it as `name` (one post may come without its list)."""
    if isinstance(answer, dict):
        if answer.get("success") is False or (name not in answer and "@attributes" not in answer):
            raise UserError(f"The board says: {said(answer.get('message') or answer.get('reason') or '')}", CHECK)
        answer = answer.get(name) or []
        answer = [answer] if isinstance(answer, dict) else answer
    if not isinstance(answer, list):
        raise UserError(f"The board says: {said(answer)}", CHECK)
    return [one for one in answer if isinstance(one, dict)]


CHECK = "Check the tags, the address of the server, and your key for it."


def said(text: Any) -> str:
    """A site's own words in one short line."""
    return " ".join(html.unescape(str(text)).split())[:200] or "nothing that can be read."


def _post(one: Mapping[str, Any], board: Board, url: str, rating: str, tags: Tags, page: str) -> Post:
    if url.startswith("//"):
        url = f"https:{url}"
    elif url.startswith("/"):
        url = f"{board.server}{url}"
    number = str(one.get("id") or "")
    if not number.isdecimal():
        raise UserError("The board's posts have no numbers.", "Check which language the server speaks.")
    source = html.unescape(_text(one, "source")).strip()
    return Post(
        int(number), url, rating, {kind: some for kind, some in tags.items() if some}, source, board.server + page
    )


def _text(one: Any, name: str) -> str:
    return str(one.get(name) or "") if isinstance(one, Mapping) else ""


def _rating(one: Mapping[str, Any]) -> str:
    return WORDS.get(_text(one, "rating").lower(), "")


def _split(tags: Any) -> Iterable[str]:
    """Gelbooru and its kin write `&#039;` for an apostrophe."""
    return [html.unescape(tag) for tag in str(tags or "").split()]
