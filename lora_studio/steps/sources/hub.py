"""Pictures and captions of a data set on the Hugging Face hub: `owner/name` or `owner/name@revision`.

Two forms are read: picture files, with captions in metadata.jsonl, metadata.csv or a text file beside each; and parquet
files that hold the pictures (with the extra `parquet`). Only what is needed is fetched, parquet files in parts.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.steps.sources import net
from lora_studio.steps.sources.addresses import host_of, parse
from lora_studio.steps.sources.candidate import Candidate, Refused, SourceGone
from lora_studio.steps.sources.config import SourceConfig

HUB = "https://huggingface.co"
NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
PICTURES = tuple(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .avif .heic .heif .jxl".split())  # noqa: SIM905
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
METADATA = ("metadata.jsonl", "metadata.csv")
CAPTIONS = (".txt", ".caption")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt", "description", "tags")
PICTURE_COLUMNS = ("image", "jpg", "png", "webp", "jpeg", "img", "picture")
PART = 8 * 2**20  # bytes of a parquet file that are fetched at a time
MAX_TEXT = 50 * 2**20
LOG_IN = "Accept its terms at {0}/datasets/{1} if it asks for that, then run `hf auth login` once."


@dataclass(frozen=True)
class Dataset:
    """A data set as it stood when it was asked for."""

    name: str
    revision: str
    """The commit: all files are of one state, whatever is uploaded meanwhile."""
    files: Mapping[str, int]
    """Bytes by path."""
    licence: str
    hub: str
    headers: Mapping[str, str] = field(repr=False)

    def url(self, path: str) -> str:
        """The address of a file."""
        return f"{self.hub}/datasets/{self.name}/resolve/{self.revision}/{quote(path)}"

    @property
    def source(self) -> str:
        """What it is called as the source of a picture."""
        return f"{self.name} on {host_of(parse(self.hub))}"

    def origin(self, path: str) -> dict[str, Any]:
        """Where a picture is from, as it is kept with it."""
        return {
            "site": host_of(parse(self.hub)),
            "post": f"{self.name}@{self.revision} {path}",
            "rating": "",
            "tags": {},
        }


def candidates(config: SourceConfig, fetch: net.Client) -> Iterator[Candidate | Refused]:
    """At most `config.limit` pictures of the data set `config.dataset`, in the order of its files.

    Raises SourceGone when the hub refuses or the data set holds no pictures in a form that can be read.
    """
    try:
        dataset = _open(config.dataset, fetch)
        pictures = [path for path in dataset.files if path.lower().endswith(PICTURES)]
        tables = [path for path in dataset.files if path.lower().endswith(".parquet")]
        if pictures:
            yield from _files(dataset, pictures, config.limit, fetch)
        elif tables:
            yield from _rows(dataset, tables, config.limit, fetch)
        else:
            raise _nothing(dataset)
    except net.Stopped:
        return
    except SourceGone:
        raise
    except UserError as error:
        raise SourceGone(error.message, error.remedy) from None


def _open(name: str, fetch: net.Client) -> Dataset:
    hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    match = NAME.fullmatch(name.strip().removeprefix(f"{hub}/").removeprefix("datasets/").rstrip("/"))
    if match is None or ".." in name:
        raise UserError(f"{name[:100]} is no name of a data set.", "Write it as OWNER/NAME or OWNER/NAME@REVISION.")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise UserError("The hub is not asked, for HF_HUB_OFFLINE is set.", "Take it away to fetch data sets.")
    repo, revision = match[1], match[2] or "main"
    headers = _token()
    fetch.pace(hub, 0.1)  # the hub allows some thousand requests in five minutes
    address = f"{hub}/api/datasets/{repo}/revision/{quote(revision, safe='')}"
    try:
        told = fetch.json(address, params={"blobs": "true"}, headers=headers)
    except net.StatusError as error:
        raise _explain(error, repo, revision, hub) from None
    if not isinstance(told, dict) or not isinstance(told.get("siblings"), list):
        raise UserError(f"{hub} does not answer as the hub does.", "Check HF_ENDPOINT.")
    files = {str(one["rfilename"]): int(one.get("size") or 0) for one in told["siblings"] if "rfilename" in one}
    licence = (told.get("cardData") or {}).get("license") or ""
    licence = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    return Dataset(repo, str(told.get("sha") or revision), dict(sorted(files.items())), licence, hub, headers)


def _token() -> dict[str, str]:
    """The header of who has logged in with `hf auth login`; nothing for everybody else."""
    from huggingface_hub import get_token

    token = get_token()
    return {"authorization": f"Bearer {token}"} if token else {}


def _explain(error: net.StatusError, repo: str, revision: str, hub: str) -> UserError:
    """The hub's refusals; it tells them apart in the header X-Error-Code."""
    code = error.headers.get("x-error-code", "")
    if code == "RevisionNotFound":
        return UserError(f"{repo} has no revision {revision}.", "Check its name, or leave @REVISION out.")
    if code == "GatedRepo":
        return UserError(f"The owners of {repo} want you to accept their terms first.", LOG_IN.format(hub, repo))
    if error.status in (401, 403, 404):  # without a login, the hub does not say whether a private one exists
        return UserError(
            f"There is no data set {repo} on the Hugging Face hub, or it is private.",
            "Check the spelling; for a private one run `hf auth login` once.",
        )
    return error


def _nothing(dataset: Dataset) -> SourceGone:
    packed = next((path for path in dataset.files if path.lower().endswith(ARCHIVES)), None)
    if packed:
        return SourceGone(
            f"{dataset.name} keeps its pictures in archives such as {packed}.",
            f"Download it from {dataset.hub}/datasets/{dataset.name}, and add its pictures as files.",
        )
    return SourceGone(f"{dataset.name} holds no pictures.", "Choose a data set with picture or parquet files.")


# --- Picture files ----------------------------------------------------------------------------------------------------


def _files(dataset: Dataset, pictures: Sequence[str], limit: int, fetch: net.Client) -> Iterator[Candidate]:
    texts: dict[str, str] = {}
    for path in (path for path in dataset.files if PurePosixPath(path).name in METADATA):
        texts |= _metadata(path, fetch.get(dataset.url(path), headers=dataset.headers, limit=MAX_TEXT).data)
    for path in pictures[:limit]:
        caption = texts.get(path, "")
        stem = path.removesuffix(PurePosixPath(path).suffix)
        beside = next((stem + end for end in CAPTIONS if stem + end in dataset.files), None)
        if not caption and beside:
            caption = captions.decode_text(fetch.get(dataset.url(beside), headers=dataset.headers, limit=2**20).data)
        yield _candidate(dataset, path, partial(_fetched, dataset, path, fetch), caption, dataset.url(path))


def _fetched(dataset: Dataset, path: str, fetch: net.Client) -> bytes:
    return fetch.get(dataset.url(path), headers=dataset.headers).data


def _metadata(path: str, data: bytes) -> dict[str, str]:
    """Captions by the path of their picture, of a metadata file beside the pictures or above them."""
    text = captions.decode_text(data)
    rows: list[Any] = []
    if path.endswith(".csv"):
        rows += csv.DictReader(io.StringIO(text))
    else:
        for line in text.splitlines():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                continue  # a line that is cut off takes one caption with it, not all
    found = {}
    for row in (row for row in rows if isinstance(row, dict) and row.get("file_name")):
        column = next((name for name in TEXT_COLUMNS if row.get(name)), None)
        if column:
            found[str(PurePosixPath(path).parent / str(row["file_name"]))] = _text(row[column])
    return found


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _candidate(dataset: Dataset, path: str, read: Any, caption: str, url: str) -> Candidate:
    return Candidate(
        PurePosixPath(path).name,
        dataset.source,
        read,
        caption.strip(),
        url=url,
        author=dataset.name.partition("/")[0],
        licence=dataset.licence,
        origin=dataset.origin(path),
    )


# --- Parquet files ----------------------------------------------------------------------------------------------------


class RemoteFile(io.RawIOBase):
    """A file on the hub that is read in parts, as if it were here; each read is one request."""

    def __init__(self, dataset: Dataset, path: str, fetch: net.Client) -> None:
        self._url, self._headers, self._fetch = dataset.url(path), dataset.headers, fetch
        self._size, self._at = dataset.files[path], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        wanted = {**self._headers, "range": f"bytes={self._at}-{end - 1}"}
        answer = self._fetch.get(self._url, headers=wanted)
        data = answer.data if answer.status == 206 else answer.data[self._at : end]  # 200: it has sent the whole file
        self._at += len(data)
        return data


def _rows(dataset: Dataset, tables: Sequence[str], limit: int, fetch: net.Client) -> Iterator[Candidate | Refused]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"{dataset.name} is made of parquet files, and what reads them is not installed.",
            "Install the extra: pip install 'lora-studio[parquet]'.",
        ) from None
    taken = 0
    for path in tables:
        try:
            remote = pyarrow.PythonFile(RemoteFile(dataset, path, fetch))
            file = parquet.ParquetFile(remote, buffer_size=PART, pre_buffer=False)  # else it reads all that will come
            picture, text = _columns(file.schema_arrow, pyarrow)
            if picture is None:
                yield Refused(path, "it has no column with pictures", dataset.source)
                continue
            columns = [picture, *([text] if text else [])]
            number = 0
            for batch in file.iter_batches(batch_size=8, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    one = _row(dataset, f"{path} {number}", row[picture], row.get(text or ""))
                    yield one
                    taken += isinstance(one, Candidate)
                    if taken == limit:
                        return
        except pyarrow.ArrowException as error:
            yield Refused(path, f"damaged or no parquet file ({str(error)[:80]})", dataset.source)


def _columns(schema: Any, pyarrow: Any) -> tuple[str | None, str | None]:
    """The column of pictures (bytes, or bytes with a path as the hub's own library writes them) and that of texts."""
    types = {column.name: column.type for column in schema}
    binary = pyarrow.types.is_binary, pyarrow.types.is_large_binary

    def holds_pictures(name: str) -> bool:
        kind = types[name]
        if pyarrow.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return name.lower() in PICTURE_COLUMNS and any(test(kind) for test in binary)

    by_name = sorted(types, key=lambda name: name.lower() not in PICTURE_COLUMNS)
    picture = next((name for name in by_name if holds_pictures(name)), None)
    return picture, next((name for word in TEXT_COLUMNS for name in types if name.lower() == word), None)


def _row(dataset: Dataset, where: str, value: Any, text: Any) -> Candidate | Refused:
    data = value.get("bytes") if isinstance(value, dict) else value
    name = (value.get("path") if isinstance(value, dict) else "") or ""
    if not data:
        return Refused(where, "this row holds no picture", dataset.source)
    table, _, number = where.rpartition(" ")
    shown = PurePosixPath(str(name)).name or f"{PurePosixPath(table).stem} {number}.png"
    page = f"{dataset.hub}/datasets/{dataset.name}"
    one = _candidate(dataset, where, lambda: data, "" if text is None else _text(text), page)
    return replace(one, name=shown)
