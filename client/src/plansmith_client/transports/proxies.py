"""A proxy between the client and its servers: absolute URLs for `http`, a tunnel (CONNECT) for everything else."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from plansmith_client.errors import InvalidInput
from plansmith_client.transports.addresses import Address

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Proxy"]

_LARGEST_REPLY = 64 * 1024
_OK = b"200"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        address: where it listens.
        headers: its credentials as a header.
    """

    address: Address
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Read `http://[user:password@]host:port`.

        Raises:
            InvalidInput: the URL has another form. It is not repeated, since it may hold a password.
        """
        example = "write it like http://proxy:3128 or http://user:password@proxy:3128"
        if not isinstance(url, str):
            raise InvalidInput(f"proxy must be a string, got a {type(url).__name__}: {example}")
        try:
            parts = urlsplit(url)
            host, port, user = parts.hostname, parts.port, parts.username
        except ValueError as error:
            raise InvalidInput(f"proxy is not a valid URL: {example}") from error
        is_plain = url.isprintable() and " " not in url and not parts.path.strip("/")
        if parts.scheme != "http" or not host or not port or not is_plain:
            raise InvalidInput(f"proxy is not a URL of an HTTP proxy: {example}")
        address = Address(f"http://{host}:{port}", "http", host, port)
        if user is None:
            return cls(address, {})
        pair = f"{unquote(user)}:{unquote(parts.password or '')}".encode()
        return cls(address, {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"})

    def tunnel_request(self, target: str) -> bytes:
        """What asks the proxy for a connection to `host:port`."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{headers}\r\n".encode("latin-1")

    def checked(self, part: bytes) -> bytes:
        """A part of the proxy's reply.

        Raises:
            OSError: it is empty: the proxy has closed the connection.
        """
        if not part:
            raise OSError(f"the proxy {self.address.target} closed the connection")
        return part

    def is_open(self, reply: bytes) -> bool:
        """Whether the proxy has opened the tunnel; False as long as its reply is incomplete.

        Raises:
            OSError: it refuses.
        """
        complete = b"\r\n\r\n" in reply
        if not complete and len(reply) <= _LARGEST_REPLY:
            return False
        status = reply.partition(b"\r\n")[0].split(b" ", 2)
        if not complete or len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != _OK:  # noqa: PLR2004
            said = b" ".join(status[1:])[:100].decode("latin-1")
            raise OSError(f"the proxy {self.address.target} refuses a tunnel: {said or 'it does not speak HTTP'}")
        return True
