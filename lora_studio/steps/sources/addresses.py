"""Which web addresses may be asked: http(s), a real host name, and only machines of the public internet.

The rest is refused: what a page or a list names must not reach this machine, its router, its neighbours or the
metadata service of the cloud that it runs in.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable

import httpcore
import httpx

from lora_studio.core.errors import UserError

Lookup = Callable[[str], list[str]]
HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # IETF protocol assignments; 192.0.0.192 is a cloud's metadata service
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # Azure's service for its own machines, at a public address
        "::/96",  # an IPv4 address in the clothes of IPv6
        "::ffff:0:0/96",  # the same, mapped
        "2002::/16",  # the same, 6to4
        "64:ff9b:1::/48",  # NAT64 within a network
        "fec0::/10",  # site-local, deprecated and still in use
    )
)
"""Networks that Python's `is_global` lets through, or did in some versions, and that lead to machines nearby."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SAFE = "Name a picture that everybody can fetch from the internet; for files of this network, add them as files."


def is_public(text: str) -> bool:
    """Whether an IP address is one of a machine on the public internet."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False  # no address, or one with a scope (fe80::1%eth0)
    if address.version == 6 and address in NAT64:  # how a network without IPv4 reaches it
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    special = any(address in network for network in SPECIAL if network.version == address.version)
    return address.is_global and not address.is_multicast and not special


def parse(text: str) -> httpx.URL:
    """A web address that may be asked, without its #fragment. Raises UserError that says what is wrong with it."""
    shown = show(text)
    try:
        url = httpx.URL(text.strip()).copy_with(fragment=None)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise UserError(f"{shown} is no web address.", "Copy it from the browser once more.") from None
    if url.scheme not in ("http", "https"):
        raise UserError(f"{shown} is no web address.", "It has to start with https:// or http://.")
    if url.userinfo or "\\" in text:
        raise UserError(f"{shown} holds a name or a password.", "Leave out what stands before the @.")
    host = host_of(url)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not HOST.fullmatch(host) or NUMBER.fullmatch(host.rpartition(".")[2]):
            # 2130706433, 0177.0.0.1 and 0x7f.1 are old ways to write 127.0.0.1
            raise UserError(f"{shown} has no proper host name.", "Copy the address from the browser.") from None
    if url.port == 0 or (url.port or 0) > 65535:
        raise UserError(f"{shown} has no proper port.", "Copy the address from the browser.")
    return url


def host_of(url: httpx.URL) -> str:
    """The host as it is looked up: lower case, other scripts as `xn--`, no dot at the end."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def show(url: httpx.URL | str) -> str:
    """The address as it may be shown and logged: without name, password and query, which may hold keys."""
    text = "".join(letter for letter in str(url).strip() if letter.isprintable())
    text = re.split(r"[?#]", text, maxsplit=1)[0]
    scheme, mark, rest = text.rpartition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"[:200]


def resolve(host: str) -> list[str]:
    """All IP addresses of a host, as the system tells them. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class PublicOnly(httpcore.NetworkBackend):
    """Opens connections to public addresses only. The host is looked up once, all of its addresses are checked, and
    the connection goes to one that was: a second answer of the name server (DNS rebinding) has no effect. TLS still
    checks the certificate against the host's name."""

    def __init__(self, lookup: Lookup = resolve, allowed: Iterable[str] = ()) -> None:
        self._lookup = lookup
        self._allowed = frozenset(allowed)
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises UserError for a host that is not public, httpcore's errors when it cannot be reached."""
        try:
            addresses = self._lookup(host)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise httpcore.ConnectError(f"{host}: {error.strerror}") from None
            raise UserError(
                f"There is no host {host}.", "Check the spelling of the address, and the connection."
            ) from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from None
        if not addresses or not all(one in self._allowed or is_public(one) for one in addresses):
            raise UserError(f"{host} is not on the public internet.", SAFE)
        for number, address in enumerate(addresses, 1):
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise AssertionError("unreachable")
