"""Pictures by their addresses, one a line."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx

from lora_studio.core.errors import UserError
from lora_studio.steps.sources import net
from lora_studio.steps.sources.addresses import host_of, parse, show
from lora_studio.steps.sources.candidate import Candidate, Refused
from lora_studio.steps.sources.config import SourceConfig

MAX_NAME = 120
COMMENT = re.compile(r"(^|\s)#.*")


def candidates(config: SourceConfig, fetch: net.Client) -> Iterator[Candidate | Refused]:
    """The pictures at `config.urls`: blank lines and # comments passed over, each address once."""
    seen: set[str] = set()
    names: Counter[tuple[str, str]] = Counter()
    for line in (part for text in config.urls for part in text.splitlines()):
        text = COMMENT.sub("", line).strip()
        if not text:
            continue
        try:
            url = parse(text)
        except UserError as error:
            yield Refused(show(text)[:MAX_NAME], str(error), "list of addresses")
            continue
        if str(url) in seen:
            continue
        seen.add(str(url))
        name, folder = name_of(url), show(url).rpartition("/")[0]
        names[name, folder] += 1
        if names[name, folder] > 1:  # view.php?id=1, view.php?id=2
            name = f"{name} ({names[name, folder]})"
        yield Candidate(name, folder, partial(fetch.picture, str(url)), url=str(url))


def name_of(url: httpx.URL) -> str:
    """A name for the file at an address: the last part of its path, or its host."""
    name = PurePosixPath(unquote(url.path)).name
    name = "".join(letter for letter in name if letter.isprintable() and letter not in '/\\:*?"<>|')
    return name[-MAX_NAME:].strip() or host_of(url)
