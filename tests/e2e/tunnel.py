"""A tunnel before the studio: passes requests on, takes no large bodies, and breaks now and then."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PER_HOP = ("transfer-encoding", "connection", "content-length")


class Tunnel(ThreadingHTTPServer):
    """Forwards to `port`. Bodies of more than `limit` bytes get a 413; the uploads numbered in `broken` are cut off."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, limit: int, broken: set[int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.limit, self.broken = port, limit, broken
        self.lock = threading.Lock()
        self.uploads = self.too_large = 0
        self.largest = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Tunnel

    def do_GET(self) -> None:
        self.pass_on(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if len(body) > self.server.limit:
            with self.server.lock:
                self.server.too_large += 1
            self.send_error(413)
            return
        if self.path.startswith("/upload/"):
            with self.server.lock:
                self.server.uploads += 1
                self.server.largest = max(self.server.largest, len(body))
                cut = self.server.uploads in self.server.broken
            if cut:
                self.close_connection = True
                return
        self.pass_on(body)

    def pass_on(self, body: bytes) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=120)
        headers = {**dict(self.headers.items()), "X-Forwarded-For": "203.0.113.9"}
        try:
            link.request(self.command, self.path, body or None, headers)
            answer = link.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in PER_HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while chunk := answer.read1(65_536):
                self.wfile.write(chunk)
        except OSError:
            pass  # the browser went away
        finally:
            self.close_connection = True
            link.close()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def tunnel(port: int, limit: int = 2**20, broken: set[int] | None = None) -> Iterator[Tunnel]:
    """A running tunnel."""
    server = Tunnel(port, limit, broken or set())
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
