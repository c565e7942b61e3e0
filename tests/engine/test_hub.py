"""Models from the hub: a small server on this machine speaks the hub's words, the real client asks."""

import errno
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, errors

from lora_studio.core import hub
from lora_studio.core.errors import UserError
from lora_studio.core.hub import RemoteFile, explain
from lora_studio.core.progress import Event, Note, Phase, Progress
from lora_studio.engine.detect import detect
from lora_studio.engine.hub import choose, resolve
from tests.engine.original import tiny_parts, whole_state, write
from tests.hub import SHA, TOKEN, Hub, serve


@pytest.fixture
def server(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, with the tiny base of the tests and some files that must never be fetched."""
    folder = Path(shutil.copytree(base, tmp_path / "remote"))
    for name in ("unet/diffusion_pytorch_model.bin", "model.ckpt", "evil.py", "unet/x.pt", "README.md", "image.png"):
        (folder / name).write_bytes(b"do not fetch")
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.safetensors", folder / "unet/diffusion_pytorch_model.non_ema.safetensors"
    )
    (folder / "safety_checker").mkdir()
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "safety_checker/model.safetensors")
    yield from serve(folder, monkeypatch)


def test_a_model_is_fetched_once_and_then_found_without_asking(server: Hub, tmp_path: Path) -> None:
    events: list[Event] = []
    folder = resolve("zorbi/tiny", events.append, tmp_path / "cache")
    found = detect(folder)
    assert (found.kind, found.problem) == ("base", "")
    assert isinstance(events[0], Phase) and isinstance(events[-1], Note)
    progress = [event for event in events if isinstance(event, Progress)]
    total = sum((server.folder / name).stat().st_size for name in set(server.fetched))
    assert progress[-1].done == progress[-1].total == total
    assert all(a.done <= b.done for a, b in pairwise(progress))
    server.asked = 0
    assert resolve("zorbi/tiny", events.append, tmp_path / "cache") == folder
    assert server.asked == 0


def test_only_needed_and_harmless_files_are_fetched(server: Hub, tmp_path: Path) -> None:
    resolve("zorbi/tiny", lambda event: None, tmp_path / "cache")
    assert {name.rpartition(".")[2] for name in server.fetched} <= {"safetensors", "json", "txt"}
    assert not any(name.startswith("safety_checker") or "non_ema" in name for name in server.fetched)
    assert {name.partition("/")[0] for name in server.fetched} == {
        "model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler",
    }  # fmt: skip


def test_counting_what_has_arrived_bears_files_that_get_their_final_name_meanwhile(tmp_path: Path) -> None:
    wanted = [RemoteFile("unet/weights.safetensors", 100, "abc")]
    part, whole = tmp_path / "abc.1f.incomplete", tmp_path / "abc"
    part.write_bytes(b"x" * 100)
    over = threading.Event()

    def rename() -> None:
        while not over.is_set():
            part.rename(whole)
            whole.rename(part)

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        found = {hub.arrived(tmp_path, wanted) for _ in range(3000)}
    finally:
        over.set()
        thread.join()
    assert 100 in found and found <= {0, 100}


def test_half_precision_is_preferred_where_all_parts_have_it(server: Hub, tmp_path: Path) -> None:
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        path = server.folder / part / f"{name}.safetensors"
        shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    folder = resolve("zorbi/tiny", lambda event: None, tmp_path / "cache")
    weights = [name for name in server.fetched if name.endswith("safetensors")]
    assert len(weights) == 3 and all("fp16" in name for name in weights)
    assert detect(folder).usable


def test_what_was_fetched_before_an_interruption_is_not_fetched_again(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its tries
    server.refuse["/zorbi/tiny/resolve/" + SHA + "/vae"] = (500, "")
    server.refuse["/zorbi/tiny/resolve/main/vae"] = (500, "")
    with pytest.raises(UserError):
        resolve("zorbi/tiny", lambda event: None, tmp_path / "cache")
    before = set(server.fetched)
    assert "unet/diffusion_pytorch_model.safetensors" in before
    server.refuse.clear()
    server.fetched.clear()
    assert detect(resolve("zorbi/tiny", lambda event: None, tmp_path / "cache")).usable
    assert "unet/diffusion_pytorch_model.safetensors" not in server.fetched


def test_a_revision_is_fetched_by_its_name(server: Hub, tmp_path: Path) -> None:
    assert detect(resolve("zorbi/tiny@v1", lambda event: None, tmp_path / "cache")).usable
    with pytest.raises(UserError, match="has no revision v9"):
        resolve("zorbi/tiny@v9", lambda event: None, tmp_path / "cache")


def test_a_model_of_one_file_becomes_that_file(server: Hub, tmp_path: Path) -> None:
    for path in list(server.folder.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write(server.folder / "tiny.safetensors", whole_state("sd1", tiny_parts("sd1", vocabulary=600)))
    found = resolve("zorbi/tiny", lambda event: None, tmp_path / "cache")
    assert found.name == "tiny.safetensors" and detect(found).usable
    server.asked = 0
    assert resolve("zorbi/tiny", lambda event: None, tmp_path / "cache") == found and server.asked == 0


def test_an_unsupported_model_is_refused_before_its_weights_are_fetched(server: Hub, tmp_path: Path) -> None:
    (server.folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="FluxPipeline"):
        resolve("zorbi/tiny", lambda event: None, tmp_path / "cache")
    assert server.fetched == ["model_index.json"]


def test_a_full_disk_is_told_before_anything_large_is_fetched(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="GB are free"):
        resolve("zorbi/tiny", lambda event: None, tmp_path / "cache")
    assert server.fetched == ["model_index.json"]


REFUSALS = {
    "gated": ("/zorbi/tiny/resolve", 403, "GatedRepo", "accept their terms", "hf auth login"),
    "no such model": ("/api", 401, "RepoNotFound", "There is no model zorbi/tiny", "spelling"),
    "too many": ("/api", 429, "", "too many requests", "Wait"),
    "forbidden": ("/api", 403, "", "does not let you", "hf auth login"),
    "hub is down": ("/api", 503, "", "503", "later"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_told_in_plain_words_and_without_the_token(
    case: str, server: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its tries
    start, status, code, words, remedy = REFUSALS[case]
    server.refuse[start] = (status, code)
    events: list[Event] = []
    with pytest.raises(UserError) as caught:
        resolve("zorbi/tiny", events.append, tmp_path / "cache")
    assert words in caught.value.message and remedy in caught.value.remedy
    assert TOKEN not in str(caught.value) + caplog.text + "".join(event.to_json() for event in events)
    assert caught.value.__cause__ is None


def test_an_unreachable_hub_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        resolve("zorbi/tiny", lambda event: None, tmp_path)


def test_the_offline_mode_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be reached"):
        resolve("zorbi/tiny", lambda event: None, tmp_path)


@pytest.mark.parametrize(
    "name", ["", "model", "../../etc/passwd", "a/b/c", "a/b@", "/a/b", "a b/c", "-a/b", "a/../b", "a/b@../../x"]
)
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name"):
        resolve(name, lambda event: None, tmp_path)


def remote(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name, 1, "0") for name in names]


def test_choosing_takes_pieces_with_their_index() -> None:
    names = [
        "model_index.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ]
    pieces = [
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    ]
    chosen = {file.name for file in choose(remote(*names, *pieces, "unet/openvino_model.xml"), "a/b")}
    assert chosen == {*names, *pieces}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["README.md"], "no model"),
        (["a.safetensors", "b.safetensors"], "several models"),
        (["model.ckpt"], "no model"),
        (["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"], "pickle"),
    ],
)
def test_what_cannot_be_used_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose(remote(*names), "a/b")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written"),
        (TimeoutError("slow"), "cannot be reached"),
        (errors.LocalEntryNotFoundError("x"), "cannot be reached"),
        (errors.HFValidationError("x"), "no name"),
        (RuntimeError(f"Authorization: Bearer {TOKEN}"), "RuntimeError"),
    ],
)
def test_errors_of_the_client_are_told_in_plain_words(error: Exception, words: str) -> None:
    found = explain(error, "a/b", None)
    assert words in str(found) and found.remedy and TOKEN not in str(found)


def test_no_torch_is_imported() -> None:
    code = "import sys, lora_studio.engine.hub\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
