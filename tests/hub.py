"""A small server on this machine that speaks the hub's words; the real client asks it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from lora_studio.core import hub

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "x" * 34


class Hub:
    """A hub with one model, `zorbi/tiny`, whose files lie in a folder. Weights are large files, all others small."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.asked = 0
        self.refuse: dict[str, tuple[int, str]] = {}
        """Beginning of an address -> status and the hub's error code."""
        self.damage: set[str] = set()
        """Names of files that arrive with one byte altered."""
        self.cut: dict[str, int] = {}
        """Name of a file -> after so many bytes the connection breaks, once."""
        self.started: list[tuple[str, int]] = []
        """Names of files that were asked for, with the byte from which on."""

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def entry(self, name: str) -> dict[str, Any]:
        size, digest = (self.folder / name).stat().st_size, self.etag(name)
        large = (
            {"lfs": {"sha256": digest, "oid": digest, "size": size, "pointerSize": 130}} if len(digest) == 64 else {}
        )
        return {"path": name, "rfilename": name, "type": "file", "size": size, "oid": digest, "blobId": digest, **large}

    def etag(self, name: str) -> str:
        data = (self.folder / name).read_bytes()
        if name.endswith((".safetensors", ".onnx")):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # as git names it

    def content(self, name: str) -> bytes:
        data = bytearray((self.folder / name).read_bytes())
        if name in self.damage:
            data[-1] ^= 1
        return bytes(data)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        for start, (status, code) in self.refuse.items():
            if path.startswith(start):
                return status, {"X-Error-Code": code}, b"{}"
        if path.startswith("/api/models/zorbi/tiny/tree/"):
            return 200, {}, json.dumps([self.entry(name) for name in self.names()]).encode()
        if path in ("/api/models/zorbi/tiny", f"/api/models/zorbi/tiny/revision/{SHA}") or (
            path in ("/api/models/zorbi/tiny/revision/main", "/api/models/zorbi/tiny/revision/v1")
        ):
            siblings = [self.entry(name) for name in self.names()]
            return 200, {}, json.dumps({"id": "zorbi/tiny", "sha": SHA, "siblings": siblings}).encode()
        if path.startswith("/api/models/zorbi/tiny/revision/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if path.startswith("/zorbi/tiny/resolve/"):
            name = unquote(path.split("/", 5)[5])
            return 200, {"ETag": f'"{self.etag(name)}"', "X-Repo-Commit": SHA}, self.content(name)
        return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub over a folder, and the client's settings that lead there: for a fixture."""
    here = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked += 1
            path = urlsplit(self.path).path
            status, headers, data = here.answer(path)
            name = unquote(path.split("/", 5)[5]) if "/resolve/" in path and status == 200 else ""
            whole = len(data)
            if self.command == "GET" and name:
                here.fetched.append(name)
                start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
                here.started.append((name, start))
                if start:
                    status, data = 206, data[start:]
                    headers = {**headers, "Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[: here.cut.pop(name, len(data))])
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(hub, "SPARE", 0)
    yield here
    running.shutdown()
    running.server_close()
    thread.join()
