"""A proxy between the client and its servers: absolute URLs for `http`, a tunnel (CONNECT) for everything else."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from plansmith_client.errors import InvalidInput
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.connections import hidden

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from plansmith_client.transports.deadlines import Deadline

__all__ = ["Proxy"]

# User and password, host, port.
_FORM = r"(?i:http)://(?:([^:/ ]*)(?::([^/ ]*))?@)?(\[[^\]/ @]+\]|[^:/ @\[\]]+):([0-9]{1,5})/?"
_PORTS = range(1, 2**16)
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
        found = re.fullmatch(_FORM, url) if isinstance(url, str) and url.isprintable() else None
        user, password, host, port = map(hidden, found.groups() if found is not None else [""] * 4)
        # It would show the password in tracebacks with local variables.
        del found
        if not port or int(port) not in _PORTS:
            example = "write it like http://proxy:3128 or http://user:password@proxy:3128"
            raise InvalidInput(f"proxy is not a URL of an HTTP proxy: {example}")
        address = Address(f"http://{host}:{port}", "http", host.strip("[]"), int(port))
        if user is None:
            return cls(address, {})
        pair = f"{unquote(user)}:{unquote(password or '')}".encode()
        return cls(address, {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"})

    def open_tunnel(self, connection: socket.socket, target: str, deadline: Deadline) -> None:
        """Ask the proxy, to which the socket is connected, for a connection to `host:port`, and wait for it.

        Raises:
            OSError: it refuses; `TimeoutError` after the deadline.
            DeadlineExceeded: nothing is left of the deadline.
        """
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        request, reply = hidden(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{headers}\r\n"), b""
        del headers
        connection.settimeout(deadline.remaining())
        connection.sendall(request.encode("latin-1"))
        # A server of TLS says nothing before the client does: what comes is the proxy's reply alone.
        while b"\r\n\r\n" not in reply and len(reply) < _LARGEST_REPLY:
            connection.settimeout(deadline.remaining())
            part = connection.recv(4096)
            if not part:
                raise OSError(f"the proxy {self.address.target} closed the connection")
            reply += part
        status = reply.partition(b"\r\n")[0].split(b" ", 2)
        is_whole = b"\r\n\r\n" in reply and len(status) > 1
        if not is_whole or not status[0].startswith(b"HTTP/1.") or status[1] != _OK:
            said = b" ".join(status[1:])[:100].decode("latin-1")
            raise OSError(f"the proxy {self.address.target} refuses a tunnel: {said or 'it does not speak HTTP'}")
