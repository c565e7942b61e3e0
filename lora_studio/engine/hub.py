"""Base models from the Hugging Face hub: `owner/model` or `owner/model@revision` becomes a folder or file here.

Only .safetensors, .json and .txt files of the parts that are needed are fetched, never a pickle. What is there already
is used without asking the hub, and what was fetched before an interruption is not fetched again. No torch.
"""

import errno
import glob
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.utils import disable_progress_bars

from lora_studio.core.errors import UserError
from lora_studio.core.progress import Event, Note, Phase, Progress
from lora_studio.engine.detect import PIPELINES, detect

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
ENDINGS = (".safetensors", ".json", ".txt")
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
    """The name of its data in the hub's cache."""


def is_name(base: str) -> bool:
    """Whether `base` is written as a name on the hub."""
    return NAME.fullmatch(base.strip()) is not None and ".." not in base


def at_hand(base: str, report: Callable[[Event], None]) -> Path:
    """The base at a path, or fetched by its name on the hub. A path that is not there is returned as it is."""
    path = Path(base).expanduser()
    return resolve(base, report) if is_name(base) and not path.exists() else path


def on_disk(name: str) -> Path | None:
    """The model of that name on the hub where it was fetched before."""
    match = NAME.fullmatch(name.strip())
    return local(match[1], match[2]) if match and is_name(name) else None


def resolve(name: str, report: Callable[[Event], None], cache_dir: Path | None = None) -> Path:
    """The folder or file of a model on the hub, fetched if it is not there yet; `cache_dir` is the hub's own if None.

    Raises UserError in plain words when there is no such model, it cannot be reached, or it cannot be trained on.
    """
    match = NAME.fullmatch(name.strip())
    if match is None or not is_name(name):
        raise UserError(
            f"{name} is no name on the Hugging Face hub.", "Write it as owner/model or owner/model@revision."
        )
    repo, revision = match[1], match[2]
    present = local(repo, revision, cache_dir)
    if present is not None:
        return present
    report(Phase("download", f"Fetching {name} from the Hugging Face hub"))
    try:
        files = list_files(repo, revision)
        wanted = choose(files, repo)
        if any(file.name == "model_index.json" for file in wanted):
            _check_index(repo, revision, cache_dir)
        _check_space(wanted, cache_dir)
        folder = _fetch(repo, revision, wanted, report, cache_dir)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises its HTTP library's errors, which change with its versions
        raise explain(error, repo, revision) from None  # the cause may hold the request with its token
    report(Note(f"{name} is on this computer now; it is not fetched again."))
    weights = [file.name for file in wanted if file.name.endswith(".safetensors")]
    return folder if len(wanted) > 1 else folder / weights[0]


# --- What is here -----------------------------------------------------------------------------------------------


def local(repo: str, revision: str | None, cache_dir: Path | None = None) -> Path | None:
    """The whole model in the hub's cache, without asking the hub; None when it is not or only partly there."""
    try:
        found = huggingface_hub.snapshot_download(
            repo, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=[NOTHING]
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, ValueError):
        return None
    folder = Path(found)
    if (folder / "model_index.json").exists():
        return folder if detect(folder).usable else None
    single = sorted(folder.glob("*.safetensors"))
    return single[0] if len(single) == 1 and detect(single[0]).usable else None


# --- What is there ----------------------------------------------------------------------------------------------


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def list_files(repo: str, revision: str | None) -> list[RemoteFile]:
    """All files of a model with their sizes."""
    api = huggingface_hub.HfApi(endpoint=_endpoint())
    info = api.model_info(repo, revision=revision, files_metadata=True)
    return [
        RemoteFile(item.rfilename, item.size or 0, str(item.lfs.sha256 if item.lfs else item.blob_id))
        for item in info.siblings or []
    ]


def choose(files: Sequence[RemoteFile], repo: str) -> list[RemoteFile]:
    """The files that a base needs: of a diffusers folder its parts, half precision where all parts have it, else the
    one .safetensors file at its root. Raises UserError when there is nothing that can be used."""
    names = {file.name: file for file in files}
    if "model_index.json" not in names:
        single = [file for file in files if file.name.endswith(".safetensors") and "/" not in file.name]
        if len(single) == 1:
            return single
        if not single:
            raise UserError(f"{repo} holds no model in a form that can be used.", NO_MODEL)
        listed = ", ".join(file.name for file in single[:5])
        raise UserError(f"{repo} holds several models ({listed}).", "Download one of them and choose the file as base.")
    parts = [part for part in PARTS if any(name.startswith(f"{part}/") for name in names)]
    weights = {part: _weights(part, list(names)) for part in parts if part in WEIGHTED}
    lacking = next((part for part, found in weights.items() if not any(found.values())), None)
    if lacking is not None:
        raise UserError(
            f"{repo} has its {lacking} as a pickle only, which can run any program when it is opened.",
            "Choose a model with .safetensors files.",
        )
    half = all(found["fp16"] for found in weights.values())
    chosen = ["model_index.json"]
    for part in parts:
        chosen += [n for n in names if re.fullmatch(rf"{part}/[^/]+\.(json|txt)", n) and ".index." not in n]
        if part in weights:
            chosen += weights[part]["fp16" if half or not weights[part][""] else ""]
    return [names[name] for name in chosen]


NO_MODEL = "Choose a model with a diffusers folder or one .safetensors file."
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
PARTS = (*WEIGHTED, "tokenizer", "tokenizer_2", "scheduler")


def _weights(part: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Weight files of a part, plain and in half precision: one whole file, or pieces with their index."""
    found: dict[str, list[str]] = {}
    for variant, mark in (("", ""), ("fp16", r"\.fp16")):
        stem = rf"{part}/(?:diffusion_pytorch_model|model)"
        whole = [name for name in names if re.fullmatch(rf"{stem}{mark}\.safetensors", name)]
        pieces = [
            name
            for name in names
            if re.fullmatch(rf"{stem}{mark}-\d+-of-\d+\.safetensors|{stem}-\d+-of-\d+{mark}\.safetensors", name)
            or re.fullmatch(rf"{stem}\.safetensors\.index{mark}\.json|{stem}{mark}\.safetensors\.index\.json", name)
        ]
        found[variant] = whole or pieces
    return found


def _check_index(repo: str, revision: str | None, cache_dir: Path | None) -> None:
    """Look at the small file that says what kind of model it is, before the large ones are fetched."""
    path = huggingface_hub.hf_hub_download(
        repo, "model_index.json", revision=revision, cache_dir=cache_dir, endpoint=_endpoint()
    )
    try:
        kind = json.loads(Path(path).read_text("utf-8")).get("_class_name", "")
    except (ValueError, AttributeError):
        kind = ""
    if kind not in PIPELINES:
        raise UserError(
            f"{repo} is a model of the kind {kind or 'unnamed'}, which is not supported.",
            "Choose a Stable Diffusion 1.x, 2.x or XL model.",
        )


def _check_space(wanted: Sequence[RemoteFile], cache_dir: Path | None) -> None:
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


def _fetch(
    repo: str,
    revision: str | None,
    wanted: Sequence[RemoteFile],
    report: Callable[[Event], None],
    cache_dir: Path | None,
) -> Path:
    """Fetch the files in another thread, and tell from this one how far it is."""
    disable_progress_bars()
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["folder"] = huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                cache_dir=cache_dir,
                endpoint=_endpoint(),
                allow_patterns=[glob.escape(file.name) for file in wanted],
            )
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    blobs = Path(cache_dir or huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"
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
    return Path(outcome["folder"])


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
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError) or names & set(UNREACHABLE):
        return UserError(
            f"The Hugging Face hub cannot be reached, and {repo} is not whole on this computer.",
            "Check the connection (and that HF_HUB_OFFLINE is not set), or choose a model that is here; "
            "what has arrived is kept.",
        )
    return UserError(f"{repo} could not be fetched ({type(error).__name__}).", "Try again; what has arrived is kept.")
