"""Pictures of a board found by tags, with what the board knows of each: tags by kind, artist, source and rating."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.steps.sources import keys, net
from lora_studio.steps.sources.addresses import host_of, parse
from lora_studio.steps.sources.booru_apis import (
    CHECK,
    E621,
    Api,
    Board,
    Danbooru,
    Gelbooru,
    Gelbooru02,
    Moebooru,
    Post,
    Tags,
    said,
)
from lora_studio.steps.sources.candidate import Candidate, Refused, SourceGone
from lora_studio.steps.sources.config import SourceConfig

GAP = 1.0
"""Seconds between two searches. The hard limits are 10 a second (Danbooru), 2 (e621) and 60 a minute (rule34), and the
first two ask for about one a second."""
MAX_PAGES = 200
VIDEOS = (".webm", ".mp4", ".zip", ".swf", ".flv", ".m4v", ".mov")  # .zip: the frames of an ugoira
CAPTION_KINDS = ("character", "species", "general")
FACES = frozenset(
    "0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||".split()  # noqa: SIM905
)
"""Tags whose underscore is no blank."""
NOBODY = frozenset(
    (
        "anonymous_artist",
        "artist_request",
        "avoid_posting",
        "banned_artist",
        "conditional_dnp",
        "epilepsy_warning",
        "sound_warning",
        "third-party_edit",
        "unknown_artist",
    )
)
"""Tags that boards file under artists and that name none."""


@dataclass(frozen=True)
class Site:
    """A board: its language and its own server."""

    api: type[Api]
    server: str


SITES = {
    "danbooru": Site(Danbooru, "https://danbooru.donmai.us"),
    "gelbooru": Site(Gelbooru, "https://gelbooru.com"),
    "safebooru": Site(Gelbooru02, "https://safebooru.org"),
    "e621": Site(E621, "https://e621.net"),
    "moebooru": Site(Moebooru, "https://yande.re"),
}


def candidates(config: SourceConfig, fetch: net.Client) -> Iterator[Candidate | Refused]:
    """Posts of `config.site` (or of `config.server`, which speaks its language) with all of `config.tags`, the newest
    first, at most `config.limit` pictures. Videos and what the board keeps to itself are named and passed over.

    Raises SourceGone when the board refuses, or has nothing.
    """
    site = SITES[config.site]
    api = site.api()
    board = _board(config)
    fetch.pace(board.server, GAP)
    wanted = "" if config.rating == "any" else config.rating
    tags = " ".join(part for part in (search_words(config.tags), api.ratings.get(wanted, "")) if part)
    page, seen, taken = "1", set[int](), 0
    for _ in range(MAX_PAGES):
        try:
            posts = api.posts(fetch, board, tags, page)
        except net.Stopped:
            return
        except UserError as error:
            raise _gone(error, board) from None
        fresh = [post for post in posts if post.id not in seen]
        for post in fresh:
            seen.add(post.id)
            if wanted and post.rating != wanted:
                continue  # a server that does not know the word for it finds them all the same
            one = _candidate(post, board, fetch)
            yield one
            taken += isinstance(one, Candidate)
            if taken == config.limit:
                return
        if not fresh:
            break
        page = api.after(page, tags, posts)
    if not taken:
        raise SourceGone(
            f"{host_of(parse(board.server))} has no {wanted + ' ' if wanted else ''}pictures with {config.tags}.",
            "Check how the site spells the tags (with underscores), or choose another rating.",
        )


def search_words(text: str) -> str:
    """Tags as a board wants them: `long hair, solo` -> `long_hair solo`; without a comma they are as they should be."""
    if "," in text:
        return " ".join("_".join(part.split()) for part in text.split(",") if part.strip())
    return " ".join(text.split())


def caption(tags: Tags) -> str:
    """A caption of a post's tags: characters first, then what is seen; underscores are blanks."""
    return captions.join(words(tag) for kind in CAPTION_KINDS for tag in tags.get(kind, ()))


def words(tag: str) -> str:
    """A board's tag as it stands in a caption: `long_hair` -> `long hair`, `^_^` as it is."""
    return tag if tag in FACES else tag.replace("_", " ").strip()


def author(tags: Tags) -> str:
    """The artists of a post, `name_(artist)` -> `name`; empty where the board names none."""
    names = [tag for tag in tags.get("artist", ()) if tag not in NOBODY]
    return ", ".join(words(re.sub(r"_\(artist\)$", "", name)) for name in names)


def server_of(config: SourceConfig) -> str:
    """Address of the interface that is asked; keys are kept by its host. Raises UserError for what is no address."""
    server = str(parse(config.server or SITES[config.site].server)).rstrip("/").removesuffix("/index.php")
    if host_of(parse(server)) == "rule34.xxx":
        return "https://api.rule34.xxx"  # where its interface lives
    return server


def _board(config: SourceConfig) -> Board:
    server = server_of(config)
    host = host_of(parse(server))
    key = keys.get(host)
    user = (config.user or (key.user if key else "")).strip()
    # Danbooru and e621 ask for the user's name in it, so that they can write to whoever causes trouble.
    name = f" (by {user} on {host})".encode("ascii", "replace").decode() if user.isprintable() and user else ""
    return Board(server, key, {"user-agent": net.AGENT + name})


def _candidate(post: Post, board: Board, fetch: net.Client) -> Candidate | Refused:
    host = host_of(parse(board.server))
    ending = PurePosixPath(urlsplit(post.url).path).suffix.lower()
    name = f"{host} {post.id}{ending}"
    if not post.url:
        return Refused(name, "the site shows this picture to some members only, or not any more", host)
    if ending in VIDEOS:
        return Refused(name, "a video or animation, not a picture", host)
    origin = {"site": host, "post": str(post.id), "rating": post.rating, "tags": post.tags, "page": post.page}
    linked = post.source if re.match(r"https?://\S+$", post.source) else post.page
    read = partial(fetch.picture, post.url)
    return Candidate(
        name, host, read, caption(post.tags), tags=True, url=linked, author=author(post.tags), origin=origin
    )


def _gone(error: UserError, board: Board) -> SourceGone:
    """What a board's refusal means, in its own words where it has some."""
    host = host_of(parse(board.server))
    if not isinstance(error, net.StatusError):
        return SourceGone(_hidden(error.message, board), error.remedy)
    if error.status in (401, 403):
        what = "does not accept your key" if board.key else "wants a user and an API key"
        return SourceGone(f"{host} {what} (error {error.status}).", KEY_REMEDY.format(host))
    try:
        answer = net.read_json(error.body.encode(), host)
    except UserError:
        answer = {}
    words = answer.get("message") or answer.get("reason") or answer.get("error") if isinstance(answer, dict) else ""
    if words and error.status in (400, 410, 422):
        return SourceGone(f"{host} says: {_hidden(said(words), board)}", CHECK)
    return SourceGone(error.message, error.remedy)


KEY_REMEDY = "Copy user (or user number) and key from your account's settings there: lora-studio keys {0} --user USER"


def _hidden(text: str, board: Board) -> str:
    """A site's words without the key, should it repeat it."""
    return text.replace(board.key.key, "…") if board.key else text
