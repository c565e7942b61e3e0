"""The one client that everything gathered from the network goes through.

It asks public machines only (see addresses.py), follows a few redirects and checks each, and has limits for bytes
(counted as they arrive, unpacked), time and number. It is polite: an honest name, a pause between two requests to one
host, and a server that says "later" is listened to. Proxies named in the environment are not used: with one, it would
be the proxy that looks up the host, and no address could be checked here.
"""

import base64
import email.utils
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpcore
import httpx

from lora_studio import __version__
from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.steps.sources.addresses import Lookup, PublicOnly, host_of, parse, resolve, show

AGENT = f"lora-studio/{__version__}"
REDIRECTS = (301, 302, 303, 307, 308)
LATER = (408, 425, 429, 500, 502, 503, 504)
MAX_JSON = 50 * 2**20
MAX_REFUSAL = 2**16  # bytes read of an answer that is an error
POLL = 0.1  # seconds between two looks whether to stop


@dataclass(frozen=True)
class Limits:
    """What one client may do; times in seconds."""

    bytes: int = images.MAX_BYTES
    """Of one answer, unpacked."""
    redirects: int = 5
    connect: float = 10.0
    silence: float = 30.0
    """Longest wait for the next byte."""
    total: float = 300.0
    """For one answer from the first byte sent to the last received."""
    fetches: int = 100_000
    tries: int = 3
    patience: float = 120.0
    """Longest pause that a server may ask for."""


class Stopped(UserError):
    """The user has stopped the import while something was being fetched; nothing is wrong with it."""

    def __init__(self) -> None:
        super().__init__("Stopped.")


class StatusError(UserError):
    """The server has answered with an error; `status` is its number, `body` the beginning of its words."""

    def __init__(self, message: str, remedy: str, answer: "Answer") -> None:
        super().__init__(message, remedy)
        self.status = answer.status
        self.body = answer.data[:2000].decode("utf-8", "replace")
        self.headers = answer.headers


class _Again(Exception):
    """It did not work this time, and may the next; `error` is what to say when it never does."""

    def __init__(self, error: UserError, wait: float | None = None, unreachable: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.unreachable = unreachable


@dataclass(frozen=True)
class Answer:
    """What a server has sent: `headers` in lower case, `data` unpacked."""

    status: int
    headers: Mapping[str, str]
    data: bytes


@dataclass
class _Pace:
    gap: float
    free_at: float = 0.0
    lost: UserError | None = None
    """Why the host cannot be reached, once that is known: the rest of its files fail at once."""


@dataclass
class Client:
    """See the head of the file. Threads may share one. `allowed` are addresses beyond the public ones, for tests: no
    setting of a user leads here."""

    should_stop: Callable[[], bool] = lambda: False
    limits: Limits = field(default_factory=Limits)
    gap: float = 0.2
    """Seconds between two requests to one host, unless `pace` says otherwise."""
    allowed: Iterable[str] = ()
    lookup: Lookup = resolve
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.allowed = frozenset(self.allowed)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=8,
            keepalive_expiry=15,
            network_backend=PublicOnly(self.lookup, self.allowed),
        )
        self._hosts: dict[str, _Pace] = {}
        self._lock = threading.Lock()
        self._fetches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def pace(self, url: str, gap: float) -> None:
        """Leave `gap` seconds between two requests to the host of `url`."""
        with self._lock:
            self._hosts[host_of(parse(url))] = _Pace(gap)

    def picture(self, url: str) -> bytes:
        """The bytes of a picture. Raises UserError, also for a web page or a video in its place."""
        return self.get(url, check=_refuse_pages).data

    def json(self, url: str, **how: Any) -> Any:
        """The JSON at an address; `how` as in `get`. Raises UserError when it is none."""
        return read_json(self.get(url, **{"limit": MAX_JSON, **how}).data, url)

    def get(
        self,
        url: str,
        params: Mapping[str, str] | None = None,
        secret: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        limit: int | None = None,
        check: Callable[[bytes, str], None] = lambda head, kind: None,
    ) -> Answer:
        """Fetch an address; `params` and `secret` make its query, `login` is a name and key (HTTP basic). What is
        secret is sent over TLS only, to this host only, and shown nowhere. `check(first bytes, content type)` may
        raise UserError before the rest is fetched.

        Raises UserError for whatever keeps it from being fetched; StatusError for an error of the server.
        """
        target = parse(url)
        if params or secret:
            target = target.copy_merge_params({**(params or {}), **(secret or {})})
        sent = {"user-agent": AGENT, **{name.lower(): value for name, value in (headers or {}).items()}}
        if login:
            sent["authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        if (secret or "authorization" in sent) and target.scheme != "https" and host_of(target) not in self.allowed:
            raise UserError(f"{show(url)} is not encrypted: your key is not sent there.", "Use an https:// address.")
        for attempt in range(1, self.limits.tries + 1):
            try:
                return self._follow(target, dict(sent), limit or self.limits.bytes, check)
            except _Again as again:
                if attempt == self.limits.tries:
                    if again.unreachable:
                        self._host(target).lost = again.error
                    raise again.error from None
                self._rest(again.wait if again.wait is not None else 2.0 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _follow(self, url: httpx.URL, headers: dict[str, str], limit: int, check: Any) -> Answer:
        first = url
        for _ in range(self.limits.redirects + 1):
            answer = self._once(url, headers, limit, check)
            if answer.status not in REDIRECTS or "location" not in answer.headers:
                return self._judged(url, answer)
            onward = parse(str(url.join(answer.headers["location"])))
            if url.scheme == "https" and onward.scheme == "http":
                raise UserError(
                    f"{show(url)} leads from https to http.", "Name the address it leads to, if you trust it."
                )
            if (onward.scheme, onward.netloc) != (url.scheme, url.netloc):
                headers.pop("authorization", None)
            url = onward
        raise UserError(
            f"{show(first)} leads from one address to the next more than {self.limits.redirects} times.",
            "Name the address of the picture itself.",
        )

    def _judged(self, url: httpx.URL, answer: Answer) -> Answer:
        if 200 <= answer.status < 300:
            return answer
        wait = _retry_after(answer.headers.get("retry-after", ""))
        error = StatusError(*_words(url, answer.status), answer)
        if wait is not None and wait > self.limits.patience:
            minutes = max(1, round(wait / 60))
            raise StatusError(
                f"{host_of(url)} asks for a pause of {minutes} minutes.", "Go on later: what is here is kept.", answer
            )
        if answer.status in LATER:
            raise _Again(error, wait)
        raise error

    def _once(self, url: httpx.URL, headers: dict[str, str], limit: int, check: Any) -> Answer:
        """One request and its answer. It runs in a thread of its own, so that a stop or the limit of time ends the
        wait at once, whatever the other side does (a name server too); the thread ends by itself soon after."""
        host = self._host(url)
        if host.lost is not None:
            raise host.lost
        self._turn(host)
        given_up, done = threading.Event(), threading.Event()
        outcome: list[Answer | BaseException] = []

        def work() -> None:
            try:
                outcome.append(self._exchange(url, headers, limit, check, given_up))
            except BaseException as error:
                outcome.append(error)
            done.set()

        threading.Thread(target=work, daemon=True).start()
        end = time.monotonic() + self.limits.total
        while not done.wait(POLL):
            if self.should_stop():
                given_up.set()
                raise Stopped
            if time.monotonic() > end:
                given_up.set()
                raise UserError(
                    f"{show(url)} took more than {self.limits.total:g} seconds.",
                    "Try again when the network is faster.",
                )
        if isinstance(outcome[0], httpcore.NetworkError | httpcore.TimeoutException | httpcore.ProtocolError):
            raise _unreached(url, outcome[0]) from None
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _exchange(
        self, url: httpx.URL, headers: dict[str, str], limit: int, check: Any, given_up: threading.Event
    ) -> Answer:
        sent = {"host": url.netloc.decode("ascii"), "accept": "*/*", "accept-encoding": "gzip", **headers}
        times = {"connect": self.limits.connect, "read": self.limits.silence, "write": self.limits.silence}
        target = httpcore.URL(scheme=url.scheme, host=host_of(url), port=url.port, target=url.raw_path)
        with self._pool.stream("GET", target, headers=sent, extensions={"timeout": times}) as response:
            got = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            good = response.status < 300
            room = limit if good else MAX_REFUSAL
            body, unpack = bytearray(), _unpacker(url, got.get("content-encoding", ""))
            for chunk in response.iter_stream():
                if given_up.is_set():
                    raise Stopped
                fresh = not body
                body += unpack(chunk, room + 1 - len(body))
                if good and fresh and body:
                    check(bytes(body[:512]), got.get("content-type", "").lower())
                if len(body) > room:
                    if not good:
                        break
                    raise UserError(
                        f"{show(url)} is too large (at most {limit / 2**20:.3g} MB).",
                        "Make it smaller, and add the file.",
                    )
            return Answer(response.status, got, bytes(body[:room]))

    def _host(self, url: httpx.URL) -> _Pace:
        with self._lock:
            return self._hosts.setdefault(host_of(url), _Pace(self.gap))

    def _turn(self, host: _Pace) -> None:
        """Wait until it is polite to ask this host again."""
        with self._lock:
            self._fetches += 1
            if self._fetches > self.limits.fetches:
                raise UserError(
                    f"More than {self.limits.fetches} requests were made.", "Start the import again to go on."
                )
            start = max(self.now(), host.free_at)
            host.free_at = start + host.gap
        self._rest(start - self.now())

    def _rest(self, seconds: float) -> None:
        end = self.now() + seconds
        while True:
            if self.should_stop():
                raise Stopped
            left = end - self.now()
            if left <= 0:
                return
            self.sleep(min(left, POLL))


def read_json(data: bytes, url: str) -> Any:
    """JSON that `url` has answered. Raises UserError when it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise UserError(
            f"{show(url)} does not answer as it should.", "Check the address, or try again later."
        ) from None


def _unpacker(url: httpx.URL, encoding: str) -> Callable[[bytes, int], bytes]:
    """A function of the next packed bytes and of how many unpacked ones are wanted at most."""
    if encoding.strip().lower() in ("", "identity"):
        return lambda chunk, room: chunk[:room]
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        raise UserError(f"{show(url)} is packed in a way that was not asked for.", "Try another address.")
    gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def unpack(chunk: bytes, room: int) -> bytes:
        try:
            return gzip.decompress(gzip.unconsumed_tail + chunk, max(room, 1))
        except zlib.error:
            raise UserError(f"{show(url)} arrived damaged.", "Try again.") from None

    return unpack


def _refuse_pages(head: bytes, kind: str) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<") and (b"<html" in text or b"<!doctype html" in text or kind.startswith("text/html")):
        raise UserError(
            "It is a web page, not a picture.", "Open it, right-click the picture and copy the picture's own address."
        )
    if kind.startswith("video/"):
        raise UserError("It is a video, not a picture.", "Download it and take pictures out of it as a video.")


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header: a number, or a date (RFC 9110, 10.2.3); None where there is none."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _words(url: httpx.URL, status: int) -> tuple[str, str]:
    if status in (404, 410):
        return f"There is nothing at {show(url)} (error {status}).", "Check the address; it may have been taken down."
    if status in (401, 403, 451):
        return (
            f"{show(url)} is not given to everybody (error {status}).",
            "Open it in a browser; if you may, add the file.",
        )
    if status == 429:
        return f"{host_of(url)} has had too many requests from here (error 429).", "Go on later: what is here is kept."
    return f"{host_of(url)} could not answer (error {status}).", "Try again later."


def _unreached(url: httpx.URL, error: BaseException) -> _Again | UserError:
    """What to say of a connection that failed. The library's own text is not passed on."""
    if "CERTIFICATE_VERIFY" in str(error):
        return UserError(
            f"{host_of(url)} cannot prove that it is {host_of(url)} (its certificate is not valid).",
            "Check the date of this computer; else do not trust the site.",
        )
    proxies = [name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if os.environ.get(name)]
    remedy = "Check the address and the connection."
    if proxies:
        remedy += f" The proxy in {proxies[0]} is not used, for behind it addresses cannot be checked."
    if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
        return _Again(UserError(f"{host_of(url)} cannot be reached.", remedy), unreachable=True)
    if isinstance(error, httpcore.TimeoutException):
        return _Again(UserError(f"{host_of(url)} has stopped answering.", "Try again later."))
    return _Again(UserError(f"The connection to {host_of(url)} broke off.", "Try again."))
