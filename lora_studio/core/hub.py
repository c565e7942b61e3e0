"""Models on the Hugging Face hub: `owner/model` or `owner/model@revision`, fetched once and checked. No torch.

Who asks says which files it needs. What is here already is used without asking the hub, what was fetched before an
interruption is not fetched again, and what has arrived is compared with the digests that the hub gives.
"""

import errno
import glob
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors, hf_hub_url
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, get_session, hf_raise_for_status

from lora_studio.core.errors import UserError
from lora_studio.core.progress import Event, Note, Phase, Progress

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
SPARE = 2**30  # bytes that stay free on the disk
POLL_SECONDS = 0.5
LOG_IN = "Open https://huggingface.co/{0} in a browser, accept the terms, then run `hf auth login` once."
NOTHING = "no-file-has-this-name"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model on the hub."""

    name: str
    size: int
    digest: str
    """The name of its data in the hub's cache: SHA-256 of a large file, git's SHA-1 of a small one."""

    @property
    def large(self) -> bool:
        """Whether the hub keeps it apart from git, as it does with weights."""
        return len(self.digest) == 64


def is_name(name: str) -> bool:
    """Whether `name` is written as a name on the hub."""
    return NAME.fullmatch(name.strip()) is not None and ".." not in name


def split(name: str) -> tuple[str, str | None]:
    """Repository and revision. Raises UserError when it is no name on the hub."""
    match = NAME.fullmatch(name.strip())
    if match is None or not is_name(name):
        raise UserError(
            f"{name} is no name on the Hugging Face hub.", "Write it as owner/model or owner/model@revision."
        )
    return match[1], match[2]


def local(name: str, whole: Callable[[Path], bool], cache_dir: Path | None = None) -> Path | None:
    """The model's folder in the hub's cache, without asking the hub; None when it is not there, or not `whole`."""
    repo, revision = split(name)
    try:
        found = huggingface_hub.snapshot_download(
            repo, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=[NOTHING]
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, ValueError):
        return None
    return Path(found) if whole(Path(found)) else None


def endpoint() -> str | None:
    """The hub's address where it is not the usual one."""
    return os.environ.get("HF_ENDPOINT") or None


def list_files(repo: str, revision: str | None) -> list[RemoteFile]:
    """All files of a model with their sizes. Raises the client's errors; see `explain`."""
    api = huggingface_hub.HfApi(endpoint=endpoint())
    info = api.model_info(repo, revision=revision, files_metadata=True)
    return [
        RemoteFile(item.rfilename, item.size or 0, str(item.lfs.sha256 if item.lfs else item.blob_id))
        for item in info.siblings or []
    ]


def files_of(name: str) -> list[RemoteFile]:
    """All files of a model with their sizes. Raises UserError in plain words when the hub does not tell."""
    repo, revision = split(name)
    try:
        return list_files(repo, revision)
    except Exception as error:  # the hub's client raises its HTTP library's errors, which change with its versions
        raise explain(error, repo, revision) from None  # the cause may hold the request with its token


def fetch(
    name: str,
    choose: Callable[[Sequence[RemoteFile]], Sequence[RemoteFile]],
    report: Callable[[Event], None],
    cache_dir: Path | None = None,
) -> Path:
    """Fetch the chosen files of a model into the hub's cache (`cache_dir` if given) -> their folder.

    Tells a Phase, Progress in bytes and a Note at the end. Raises UserError in plain words when there is no such model,
    it cannot be reached, the disk is too full, or what arrived is not what the hub announced.
    """
    repo, revision = split(name)
    report(Phase("download", f"Fetching {name} from the Hugging Face hub"))
    try:
        wanted = choose(list_files(repo, revision))
        check_space(wanted, cache_dir)
        folder = _download(repo, revision, wanted, report, cache_dir)
    except UserError:
        raise
    except Exception as error:  # as in files_of
        raise explain(error, repo, revision) from None
    report(Note(f"{name} is on this computer now; it is not fetched again."))
    return folder


def check_space(wanted: Collection[RemoteFile], cache_dir: Path | None = None) -> None:
    """Raises UserError when the disk of the hub's cache is too full for the files."""
    folder = Path(cache_dir or huggingface_hub.constants.HF_HUB_CACHE).expanduser()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    needed, free = sum(file.size for file in wanted), shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise UserError(
            f"The model takes {needed / 1e9:.1f} GB, and only {free / 1e9:.1f} GB are free on the disk of {folder}.",
            "Free some space, or set HF_HOME to a folder on another disk.",
        )


# --- Fetching ---------------------------------------------------------------------------------------------------


def _download(
    repo: str,
    revision: str | None,
    wanted: Collection[RemoteFile],
    report: Callable[[Event], None],
    cache_dir: Path | None,
) -> Path:
    """Fetch the files in another thread, and tell from this one how far it is."""
    disable_progress_bars()
    outcome: dict[str, Any] = {}
    blobs = Path(cache_dir or huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"

    def work() -> None:
        try:
            for file in wanted:
                if file.large and not (blobs / file.digest).exists():
                    _fetch_large(repo, revision, file, blobs)
            outcome["folder"] = huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                cache_dir=cache_dir,
                endpoint=endpoint(),
                allow_patterns=[glob.escape(file.name) for file in wanted],
            )
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    total = sum(file.size for file in wanted)
    told = -1
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        done = arrived(blobs, wanted)
        if done != told and thread.is_alive():
            report(Progress(done, total, "bytes"))
            told = done
    if "error" in outcome:
        raise outcome["error"]
    report(Progress(total, total, "bytes"))
    for file in wanted:
        path = Path(outcome["folder"]) / file.name
        if not file.large:
            _check(repo, file, path.resolve(), path)
    return Path(outcome["folder"])


def _fetch_large(repo: str, revision: str | None, file: RemoteFile, blobs: Path) -> None:
    """Fetch a large file to where the hub's client looks for it, going on where a part of it has arrived: the client
    itself begins anew after the program was ended. Tries again while something arrives."""
    blobs.mkdir(parents=True, exist_ok=True)
    part = blobs / f"{file.digest}.part"
    before = -1
    while (here := _size(part)) < file.size:
        if here <= before:
            raise TimeoutError(file.name)
        before = here
        try:
            _go_on(hf_hub_url(repo, file.name, revision=revision, endpoint=endpoint()), part, here)
        except Exception as error:
            if not _is_broken_line(error):
                raise
    _check(repo, file, part)
    os.replace(part, blobs / file.digest)


def _go_on(url: str, part: Path, start: int) -> None:
    """Append what comes from byte `start` on; a server that does not know ranges begins anew."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        with part.open("ab" if response.status_code == 206 else "wb") as out:
            for block in response.iter_bytes():  # as it comes: what is gathered first is lost when the line breaks
                out.write(block)


def _check(repo: str, file: RemoteFile, *paths: Path) -> None:
    """Compare what has arrived, at the first of the paths, with the digest that the hub gives; the client looks at the
    sizes only. What is wrong is removed at all of them."""
    if digest_like(file.digest, paths[0]) != file.digest:
        for path in paths:
            path.unlink(missing_ok=True)
        raise UserError(
            f"{file.name} of {repo} did not arrive whole: its content is not what the hub announced.",
            "Try again; the damaged file was removed, the others are kept.",
        )


def digest_like(digest: str, path: Path) -> str:
    """A file's digest of the kind that `digest` is: SHA-256, or git's SHA-1 over a header and the content."""
    with path.open("rb") as file:
        if len(digest) == 64:  # in hexadecimal
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        while block := file.read(2**20):
            found.update(block)
        return found.hexdigest()


def arrived(blobs: Path, wanted: Sequence[RemoteFile]) -> int:
    """Bytes of the wanted files that are in the cache, whole or in part."""
    done = 0
    for file in wanted:
        sizes = [_size(path) for path in blobs.glob(f"{glob.escape(file.digest)}*")]
        done += min(max(sizes, default=0), file.size)
    return done


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it has just got its final name (the part files of the hub's client do at any time)."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- Errors -----------------------------------------------------------------------------------------------------

UNREACHABLE = (
    "ConnectError",
    "ConnectionError",
    "TimeoutException",
    "Timeout",
    "TimeoutError",
    "TransportError",
    "NetworkError",
)


def _is_broken_line(error: BaseException) -> bool:
    """By the names of its classes: which HTTP library the hub's client uses changes with its versions."""
    return bool({kind.__name__ for kind in type(error).__mro__} & set(UNREACHABLE))


def explain(error: BaseException, repo: str, revision: str | None) -> UserError:
    """What went wrong, in plain words. The error's own text is not passed on: it may hold addresses and names."""
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"The owners of {repo} want you to accept their terms first.", LOG_IN.format(repo))
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{repo} has no revision {revision}.", "Check its name, or leave @revision out.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"There is no model {repo} on the Hugging Face hub, or it is private.",
            "Check the spelling; for a private model run `hf auth login` once.",
        )
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{repo} is no name on the Hugging Face hub.", "Write it as owner/model.")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(f"The hub does not let you fetch {repo} (error {status}).", LOG_IN.format(repo))
    if status == 429:
        return UserError("The hub has had too many requests from here (error 429).", "Wait some minutes and try again.")
    if isinstance(status, int):
        return UserError(f"The hub could not serve {repo} (error {status}).", "Try again later.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return UserError(
            f"The disk is full: {repo} could not be fetched whole.",
            "Free some space, or set HF_HOME to a folder on another disk; what has arrived is kept.",
        )
    if isinstance(error, PermissionError):
        return UserError(
            f"{repo} cannot be written to the hub's cache: {error.strerror}.", "Check that the folder can be written."
        )
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError) or _is_broken_line(error):
        return UserError(
            f"The Hugging Face hub cannot be reached, and {repo} is not whole on this computer.",
            "Check the connection (and that HF_HUB_OFFLINE is not set), or choose a model that is here; "
            "what has arrived is kept.",
        )
    return UserError(f"{repo} could not be fetched ({type(error).__name__}).", "Try again; what has arrived is kept.")
