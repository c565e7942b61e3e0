"""Boards that answer as the real ones do: the same addresses, names of fields, forms of pages and errors."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from xml.sax.saxutils import quoteattr

from tests.conftest import draw_picture
from tests.steps.web import Reply, Request

JSON = {"Content-Type": "application/json; charset=utf-8"}
LETTER = {"general": "g", "sensitive": "s", "questionable": "q", "explicit": "e"}


@dataclass(frozen=True)
class Work:
    """What all boards know of a post, before each says it in its own words."""

    id: int
    rating: str = "general"
    artist: str = "some_one_(artist)"
    character: str = "hatsune_miku"
    copyright: str = "vocaloid"
    general: str = "1girl long_hair ^_^ shirt_(white) can't_help"
    meta: str = "highres"
    ending: str = "png"
    source: str = "https://www.pixiv.net/artworks/123"
    hidden: bool = False

    def tags(self) -> list[str]:
        return sorted(f"{self.artist} {self.character} {self.copyright} {self.general} {self.meta}".split())


WORKS = [Work(number) for number in range(1, 6)]


def image(request: Request) -> Reply | None:
    """The picture of a post, at `/data/<id>.<ending>` on every board here."""
    if not request.path.startswith(("/data/", "/images/")):
        return None
    return Reply(
        draw_picture(int(request.path.rpartition("/")[2].partition(".")[0])), headers={"Content-Type": "image/png"}
    )


def matching(works: list[Work], tags: str, short: bool) -> list[Work]:
    """The posts with all of the tags, the newest first; `short` where s means safe and not sensitive."""
    found = []
    for work in sorted(works, key=lambda one: -one.id):
        own = set(work.tags())
        rating = work.rating
        words = {f"rating:{rating}", f"rating:{LETTER[rating]}"}
        if short and rating in ("general", "sensitive"):
            words = {"rating:s", "rating:safe"}
        plain = [tag for tag in tags.split() if not tag.startswith("order:")]
        if all(tag.removeprefix("-") not in own | words if tag[0] == "-" else tag in own | words for tag in plain):
            found.append(work)
    return found


def paged(works: list[Work], page: str, size: int) -> list[Work]:
    if page.startswith("b"):
        return [work for work in works if work.id < int(page[1:])][:size]
    start = (int(page) - 1) * size
    return works[start : start + size]


def danbooru(works: list[Work], most: int = 200) -> Callable[[Request], Reply]:
    """Danbooru 2: a list; pages counted or `b<id>`; more than two tags only for some; 422 and words for the rest."""

    def answer(request: Request) -> Reply:
        query = request.query
        if (found := image(request)) is not None:
            return found
        assert request.path == "/posts.json"
        if len([tag for tag in query["tags"].split() if not tag.startswith("rating:")]) > 2:
            words = "You cannot search for more than 2 tags at a time."
            error = {"success": False, "error": "PostQuery::TagLimitError", "message": words, "backtrace": []}
            return Reply(json.dumps(error).encode(), 422, JSON)
        listed = paged(matching(works, query["tags"], False), query.get("page", "1"), min(int(query["limit"]), most))
        return Reply(json.dumps([_danbooru(work, request) for work in listed]).encode(), headers=JSON)

    return answer


def _danbooru(work: Work, request: Request) -> dict:
    file = f"http://{request.headers['host']}/data/{work.id}.{work.ending}"
    told = {
        "id": work.id,
        "created_at": "2024-05-01T10:00:00.000-04:00",
        "uploader_id": 12,
        "score": 7,
        "source": work.source,
        "rating": LETTER[work.rating],
        "image_width": 96,
        "image_height": 96,
        "tag_string": " ".join(work.tags()),
        "file_ext": work.ending,
        "file_size": 999,
        "is_banned": work.hidden,
        "tag_string_general": work.general,
        "tag_string_artist": work.artist,
        "tag_string_character": work.character,
        "tag_string_copyright": work.copyright,
        "tag_string_meta": work.meta,
    }
    hidden = {"md5": "0" * 32, "file_url": file, "large_file_url": file, "preview_file_url": file}
    return told if work.hidden else {**told, **hidden}


def e621(works: list[Work], most: int = 320) -> Callable[[Request], Reply]:
    """e621: posts under a name, with parts; 403 and words without an honest agent."""

    def answer(request: Request) -> Reply:
        if (found := image(request)) is not None:
            return found
        assert request.path == "/posts.json"
        if not request.headers.get("user-agent", "").startswith("lora-studio/"):
            return Reply(b'{"success":false,"reason":"Please set a user agent."}', 403, JSON)
        query = request.query
        listed = paged(matching(works, query["tags"], True), query.get("page", "1"), min(int(query["limit"]), most))
        return Reply(json.dumps({"posts": [_e621(work, request) for work in listed]}).encode(), headers=JSON)

    return answer


def _e621(work: Work, request: Request) -> dict:
    url = f"http://{request.headers['host']}/data/{work.id}.{work.ending}"
    kinds = ("general", "artist", "character", "copyright", "meta")
    tags = {kind: getattr(work, kind).split() for kind in kinds}
    return {
        "id": work.id,
        "file": {"width": 96, "height": 96, "ext": work.ending, "md5": "0", "url": None if work.hidden else url},
        "preview": {"url": None if work.hidden else url},
        "sample": {"has": False},
        "tags": {**tags, "species": ["domestic_cat"], "invalid": [], "lore": [], "contributor": []},
        "locked_tags": [],
        "flags": {"deleted": False},
        "rating": {"general": "s", "sensitive": "s"}.get(work.rating, LETTER[work.rating]),
        "sources": [work.source, "https://example.com/second"] if work.source else [],
        "relationships": {"parent_id": None},
    }


def gelbooru(works: list[Work], user: str = "", key: str = "", most: int = 100) -> Callable[[Request], Reply]:
    """Gelbooru: an object with @attributes; 401 without a key; kinds of tags as numbers, from another address."""

    def answer(request: Request) -> Reply:
        query = request.query
        if (found := image(request)) is not None:
            return found
        assert (request.path, query["page"], query["q"], query["json"]) == ("/index.php", "dapi", "index", "1")
        if key and (query.get("user_id"), query.get("api_key")) != (user, key):
            return Reply(b"", 401)
        if query["s"] == "tag":
            return Reply(json.dumps(_tags(works, query["names"])).encode(), headers=JSON)
        size = min(int(query["limit"]), most)
        found_ = matching(works, query["tags"], False)
        listed = paged(found_, str(int(query["pid"]) + 1), size)
        told = {"@attributes": {"limit": size, "offset": int(query["pid"]) * size, "count": len(found_)}}
        if listed:
            told["post"] = [_gelbooru(work, request) for work in listed]
        return Reply(json.dumps(told).encode(), headers=JSON)

    return answer


def _escaped(tags: list[str]) -> str:
    return " ".join(tags).replace("'", "&#039;")


def _gelbooru(work: Work, request: Request) -> dict:
    url = f"http://{request.headers['host']}/data/{work.id}.{work.ending}"
    return {
        "id": work.id,
        "created_at": "Tue May 30 12:34:56 -0500 2023",
        "score": 0,
        "width": 96,
        "height": 96,
        "md5": "0",
        "directory": "80/3d",
        "image": f"0.{work.ending}",
        "rating": work.rating,
        "source": work.source,
        "owner": "danbooru",
        "parent_id": 0,
        "sample": 0,
        "tags": _escaped(work.tags()),
        "file_url": url,
        "preview_url": url,
    }


def _tags(works: list[Work], names: str) -> dict:
    numbers = {"general": 0, "artist": 1, "copyright": 3, "character": 4, "meta": 5}
    kinds = {tag: numbers[kind] for work in works for kind in numbers for tag in getattr(work, kind).split()}
    wanted = names.split()
    assert len(wanted) <= 100
    told = [{"id": 1, "name": _escaped([tag]), "count": 5, "type": kinds[tag], "ambiguous": 0} for tag in wanted]
    return {"@attributes": {"limit": 100, "offset": 0, "count": len(told)}, "tag": told}


def gelbooru02(works: list[Work], info: bool = False, xml: bool = False, most: int = 100) -> Callable[[Request], Reply]:
    """Gelbooru 0.2: a bare list, nothing at all when nothing is found; `info`: it tells the kinds of tags when asked;
    `xml`: it knows no JSON."""

    def answer(request: Request) -> Reply:
        query = request.query
        if (found := image(request)) is not None:
            return found
        assert (request.path, query["page"], query["s"], query["q"]) == ("/index.php", "dapi", "post", "index")
        size = min(int(query["limit"]), most)
        listed = paged(matching(works, query["tags"], False), str(int(query["pid"]) + 1), size)
        told = [_gelbooru02(work, request, info and query.get("fields") == "tag_info") for work in listed]
        if xml:
            posts = "".join(f"<post {' '.join(f'{k}={quoteattr(str(v))}' for k, v in one.items())}/>" for one in told)
            text = f'<?xml version="1.0" encoding="UTF-8"?><posts count="{len(told)}" offset="0">{posts}</posts>'
            return Reply(text.encode(), headers={"Content-Type": "text/xml"})
        return Reply(json.dumps(told).encode() if told else b"", headers=JSON)

    return answer


def _gelbooru02(work: Work, request: Request, info: bool) -> dict:
    told = {
        "directory": "4711",
        "hash": "0",
        "height": 96,
        "id": work.id,
        "image": f"{work.id}.{work.ending}",
        "change": 1700000000,
        "owner": "someone",
        "parent_id": 0,
        "rating": work.rating,
        "sample": False,
        "score": None,
        "tags": _escaped(work.tags()),
        "width": 96,
        "source": work.source,
    }
    if not info:
        return told  # Safebooru: the address has to be put together
    names = {"general": "tag", "meta": "metadata"}
    kinds = ("general", "artist", "copyright", "character", "meta")
    told["tag_info"] = [
        {"tag": _escaped([tag]), "count": 3, "type": names.get(kind, kind)}
        for kind in kinds
        for tag in getattr(work, kind).split()
    ]
    return {**told, "file_url": f"//{request.headers['host']}/data/{work.id}.{work.ending}"}


def moebooru(works: list[Work], most: int = 100) -> Callable[[Request], Reply]:
    """Moebooru: version 2 of its answer holds the kinds of all tags on the page."""

    def answer(request: Request) -> Reply:
        query = request.query
        if (found := image(request)) is not None:
            return found
        assert request.path == "/post.json"
        listed = paged(matching(works, query["tags"], True), query["page"], min(int(query["limit"]), most))
        kinds = {}
        for work in listed:
            for kind in ("general", "artist", "copyright", "character"):
                kinds |= dict.fromkeys(getattr(work, kind).split(), kind)
        posts = [_moebooru(replace(work, meta=""), request) for work in listed]
        told = {"posts": posts, "pools": [], "pool_posts": [], "tags": kinds}
        whole = query.get("api_version") == "2" and query.get("include_tags") == "1"
        return Reply(json.dumps(told if whole else posts).encode(), headers=JSON)

    return answer


def _moebooru(work: Work, request: Request) -> dict:
    return {
        "id": work.id,
        "tags": " ".join(work.tags()),
        "created_at": 1700000000,
        "creator_id": 1,
        "author": "uploader",
        "source": work.source,
        "md5": "0",
        "file_size": 999,
        "file_ext": work.ending,
        "file_url": f"http://{request.headers['host']}/data/{work.id}.{work.ending}",
        "rating": {"general": "s", "sensitive": "s"}.get(work.rating, LETTER[work.rating]),
        "width": 96,
        "height": 96,
        "status": "active",
    }
