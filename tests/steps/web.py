"""A web server of this process for tests of what comes from the network, and a client that may reach it."""

import gzip
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from lora_studio.steps.sources import net

LOCAL = ("127.0.0.1",)


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Reply:
    """What it answers; a body that is a function writes to the connection itself."""

    body: bytes | Callable[[Any], None] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Web:
    """The server: `answer` is called for each request, `log` holds them all."""

    answer: Callable[[Request], Reply]
    log: list[Request] = field(default_factory=list)
    url: str = ""
    port: int = 0


@contextmanager
def serve(answer: Callable[[Request], Reply]) -> Iterator[Web]:
    """Run a server at 127.0.0.1 while the block lasts."""
    web = Web(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer on a kept connection waits for 40 ms

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers)
            web.log.append(request)
            reply = web.answer(request)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if callable(reply.body):
                self.end_headers()
                self.close_connection = True
                with suppress(OSError):  # the client hangs up, as it should
                    reply.body(self.wfile)
                return
            body = reply.body
            if "gzip" in headers.get("accept-encoding", "") and "application/json" in reply.headers.values():
                body = gzip.compress(body)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, address: Any) -> None:
            if not isinstance(sys.exception(), OSError):  # a client may hang up
                super().handle_error(request, address)

    server = Server(("127.0.0.1", 0), Handler)
    web.port = server.server_address[1]
    web.url = f"http://127.0.0.1:{web.port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


class Clock:
    """A clock that runs only while somebody sleeps, so that tests of waiting do not wait."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._lock = threading.Lock()

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.time += max(seconds, 1e-3)


def client(clock: Clock | None = None, **how: Any) -> net.Client:
    """A client that may reach 127.0.0.1, and that waits by `clock`."""
    clock = clock or Clock()
    return net.Client(**{"allowed": LOCAL, "now": clock.now, "sleep": clock.sleep, **how})
