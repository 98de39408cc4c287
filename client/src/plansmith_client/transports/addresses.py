"""The URL of a server, parsed once."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from plansmith_client.errors import InvalidInput

__all__ = ["Address", "is_loopback"]

_SCHEMES = ("grpc", "grpcs", "http", "https")
_UNIX_SCHEMES = {"unix": "grpc", "http+unix": "http"}
_DEFAULT_PORTS = {"http": 80, "https": 443}
# The path of a call, such as `/v2/models/digits/infer`.
_CALL = r"/v2/(?:health|models|repository)(?:/.*)?$"
_EXAMPLES = "write it like localhost:8001 (gRPC) or http://localhost:8000 (HTTP)"


class Address(NamedTuple):
    """Where a server listens, and which protocol it speaks.

    Attributes:
        url: as the caller wrote it, for messages.
        scheme: `grpc`, `grpcs`, `http` or `https`.
        host: a name or an IP address, IPv6 without its brackets.
        port: the TCP port.
        path: what stands before the `/v2` of the protocol, for servers behind a gateway; HTTP only.
        socket_path: the Unix socket to connect to, instead of a port of the host; empty for none.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str = ""
    socket_path: str = ""

    @property
    def target(self) -> str:
        """`host:port`, IPv6 in brackets; of a Unix socket its place as gRPC writes it."""
        if self.socket_path:
            return f"unix:{self.socket_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """What HTTP's `Host` says: the host without its zone, and the port if it is not the scheme's own."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.socket_path or _DEFAULT_PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `host:port`, `grpc://host:port`, `grpcs://host:port`, `http://host[:port][/path]` or `https://...`.

        Unix sockets are `unix:///path` for gRPC and `http+unix:///path` for HTTP. A `/v2` at the end is the protocol's
        own and left out: `http://host/v2/v2` is for a gateway whose path itself ends so.

        Raises:
            InvalidInput: the URL has another form, is that of a call, carries a user name or password, or lacks gRPC's
                port.
        """
        parts = _split(url)
        if parts.scheme in _UNIX_SCHEMES:
            is_path = parts.path.startswith("/") and not parts.path.endswith("/")
            if parts.netloc or parts.query or parts.fragment or not is_path:
                raise InvalidInput(
                    f"The URL {_shown(url)} does not name a Unix socket: write it like {parts.scheme}:///run/triton.sock"
                )
            if not hasattr(socket, "AF_UNIX"):
                raise InvalidInput(f"The URL {url!r}: Python has no Unix sockets on this system; use a port")
            return cls(url, _UNIX_SCHEMES[parts.scheme], "localhost", 0, socket_path=parts.path)
        if parts.scheme not in _SCHEMES:
            raise InvalidInput(f"The URL {_shown(url)} has the unknown scheme {parts.scheme!r}: {_EXAMPLES}")
        if parts.username is not None or parts.password is not None:
            # The URL is not repeated here: messages end up in logs, passwords should not.
            raise InvalidInput("The URL carries a user name or a password: leave them out of it")
        try:
            port = _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
        except ValueError as error:
            raise InvalidInput(
                f"The URL {_shown(url)} has a port that is not a number from 1 to 65535: {_EXAMPLES}"
            ) from error
        if not parts.hostname:
            raise InvalidInput(f"The URL {_shown(url)} has no host: {_EXAMPLES}")
        if not port:
            raise InvalidInput(f"The URL {_shown(url)} has no port, or 0: {_EXAMPLES}")
        path = parts.path.rstrip("/")
        if parts.query or parts.fragment or (path and parts.scheme.startswith("grpc")):
            raise InvalidInput(f"The URL {_shown(url)} has a part after the port that is not allowed: {_EXAMPLES}")
        return cls(url, parts.scheme, _ascii(url, parts.hostname), port, _before_calls(url, path))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: object) -> str:
    """A URL that is not valid, for a message: without what may be a password or a token of it."""
    if not isinstance(url, str):
        return f"a {type(url).__name__}" if isinstance(url, (bytes, bytearray)) else repr(url)
    before, separator, rest = url.rpartition("@")
    if separator:
        scheme, mark, _ = before.partition("://")
        rest = f"{scheme}://***@{rest}" if mark else f"***@{rest}"
    for mark in "?#":
        shown, found, _ = rest.partition(mark)
        rest = f"{shown}{mark}***" if found else shown
    return repr(rest)


def _before_calls(url: str, path: str) -> str:
    if (call := re.search(_CALL, path)) is not None:
        server = url[: url.index(call[0])]
        raise InvalidInput(
            f"The URL {url!r} is that of a call: write that of the server, which ends before {call[0]!r}: {server}"
        )
    return path.removesuffix("/v2")


def _ascii(url: str, host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise InvalidInput(f"The URL {_shown(url)} has a host that is not a valid name: {_EXAMPLES}") from error


def _split(url: object) -> SplitResult:
    if not isinstance(url, str) or not url or not url.isprintable() or " " in url:
        raise InvalidInput(f"{_shown(url)} is not a valid URL: {_EXAMPLES}")
    try:
        return urlsplit(url if "://" in url or url.startswith("unix:/") else f"grpc://{url}")
    except ValueError as error:
        raise InvalidInput(f"{_shown(url)} is not a valid URL: {_EXAMPLES}") from error
