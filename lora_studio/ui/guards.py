"""What every request must pass: the right host, no foreign page behind it, not too large; and the headers it gets.

Gradio checks none of this (a page of any web site could call its server functions; `Host` is never looked at).
"""

import ipaddress
from contextvars import ContextVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 32 * 2**20
"""Bytes of one request. Uploads come in chunks that are smaller (see uploads.py)."""

SECURITY_HEADERS = {
    # 'unsafe-eval' is needed by gr.HTML, so this does not stop an injected script: escaping does (see static/core.js).
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CLOSED = ("/monitoring", "/gradio_api/monitoring", "/gradio_api/upload", "/gradio_api/deep_link")
"""Routes of gradio that the studio does not use."""

FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "cf-connecting-ip")
"""Headers by which a proxy or tunnel tells that it stands between."""
owner: ContextVar[bool] = ContextVar("owner", default=False)
"""Whether the request in hand comes from the machine itself; a handler asks it before it lets a path be named."""


def is_owner(scope: Scope, headers: Headers) -> bool:
    """Whether a request was made on this machine: straight from a loopback address to a loopback name. What comes
    through a tunnel arrives from a loopback address too, but under the tunnel's name or with its headers."""
    client = scope.get("client")
    called = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    between = any(name in headers for name in FORWARDED)
    return bool(client) and _is_loopback(client[0]) and _is_loopback(called) and not between


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def foreign(method: str, headers: Headers) -> str:
    """Why a request comes from another site; empty when it does not. Reading (GET, HEAD) is free for navigation."""
    site = headers.get("sec-fetch-site", "")
    if method in ("GET", "HEAD"):
        return ""
    if site and site not in ("same-origin", "none"):
        return f"Sec-Fetch-Site is {site}"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
        return "the Origin is another site"
    return ""


class Guard:
    """ASGI middleware: refuses foreign writes, closed routes and large bodies; adds the security headers."""

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    answer[name] = value
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal:
            status, text = refusal
            await PlainTextResponse(text, status)(scope, receive, send_guarded)
            return
        owner.set(is_owner(scope, headers))
        await self.app(scope, self._limited(receive), send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        reason = foreign(scope["method"], headers)
        if reason:
            return 403, f"Refused: {reason}. The studio answers only its own page."
        if scope["path"].startswith(CLOSED):
            return 404, "Not used by the studio."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.max_body:
            return 413, f"Refused: a request may hold {self.max_body // 2**20} MB."
        return None

    def _limited(self, receive: Receive) -> Receive:
        """Count what arrives, for a body without a length."""
        seen = 0

        async def read() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body:
                return {"type": "http.disconnect"}
            return message

        return read
