"""Pictures by their addresses, one a line."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import httpx

from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.steps.sources import net
from lora_studio.steps.sources.addresses import host_of, parse, show
from lora_studio.steps.sources.candidate import Candidate, Refused
from lora_studio.steps.sources.config import SourceConfig

MAX_NAME = 120
COMMENT = re.compile(r"(^|\s)#.*")


def candidates(
    config: SourceConfig, fetch: net.Client, known: Mapping[str, Path] | None = None
) -> Iterator[Candidate | Refused]:
    """The pictures at `config.urls`: blank lines and # comments passed over, each address once.

    What is `known` (see `here`) is read from this computer, not fetched again.
    """
    seen = set()
    for line in (part for text in config.urls for part in text.splitlines()):
        text = COMMENT.sub("", line).strip()
        if not text:
            continue
        try:
            url = parse(text)
        except UserError as error:
            yield Refused(show(text) or text[:MAX_NAME], str(error))
            continue
        if str(url) not in seen:
            seen.add(str(url))
            yield Candidate(name_of(url), host_of(url), reader(str(url), str(url), fetch, known or {}), url=str(url))


def here(project: Project) -> dict[str, Path]:
    """The originals of a project by where they are from: the site's post (see `post_key`), or else the address."""
    found = {}
    for image in project.images():
        key = post_key(json.loads(image.origin)) if image.origin else image.url
        if key:
            found[key] = project.original_path(image)
    return found


def post_key(origin: Mapping[str, Any]) -> str:
    """What one post of a site goes by; empty where the origin names none."""
    return f"{origin['site']} {origin['post']}" if origin.get("site") and origin.get("post") else ""


def reader(key: str, url: str, fetch: net.Client, known: Mapping[str, Path]) -> Any:
    """The function that gives a picture's bytes: from this computer if it was fetched before, else from its address."""
    return known[key].read_bytes if key in known else lambda: fetch.picture(url)


def name_of(url: httpx.URL) -> str:
    """A name for the file at an address: the last part of its path, or its host."""
    name = PurePosixPath(unquote(url.path)).name
    name = "".join(letter for letter in name if letter.isprintable() and letter not in '/\\:*?"<>|')
    return name[-MAX_NAME:].strip() or host_of(url)
