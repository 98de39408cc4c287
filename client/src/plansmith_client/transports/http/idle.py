"""Connections kept open for the next request, however they are driven."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import ssl

    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection

__all__ = ["Pool", "keep_alive"]

# More are opened when more requests are in flight, so that nobody waits for one.
_MOST = 256
# Load balancers and NAT forget silent connections, some after a minute, and tell nobody.
_LONGEST_SECONDS = 55.0
_PROBE_AFTER_SECONDS, _PROBE_SECONDS, _PROBES = 30, 10, 3


class _Connection(Protocol):
    is_reusable: bool

    def is_quiet(self) -> bool:
        """Whether the server has neither closed it nor sent anything since the last response."""

    def close(self) -> None:
        """Close it."""


class Pool:
    """A stack of connections to one server: the one that was used last is used next. Safe to use from many threads.

    Args:
        address: where it listens.
        context: for TLS; None for none.
        options: the name to expect in its certificate, if it is not the host, and the proxy.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None, options: Connection) -> None:
        self._address = address
        self._proxy = options.proxy
        self._context = context
        self._server_name = options.server_name
        self._idle: list[tuple[float, _Connection]] = []
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> Any:
        """A connection that is fit for a request; None if there is none. Those that are not are closed."""
        while self._idle:
            with self._lock:
                if not self._idle:
                    return None
                since, connection = self._idle.pop()
            if time.monotonic() - since <= _LONGEST_SECONDS and connection.is_quiet():
                return connection
            connection.close()
        return None

    def keep(self, connection: _Connection) -> None:
        """Keep a connection whose response has been read, if it can carry another request."""
        with self._lock:
            if connection.is_reusable and not self._closed and len(self._idle) < _MOST:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()


def keep_alive(connection: socket.socket) -> None:
    """Let the system find out whether the other end of an idle connection is still there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER_SECONDS),
        ("TCP_KEEPALIVE", _PROBE_AFTER_SECONDS),  # the same on macOS
        ("TCP_KEEPINTVL", _PROBE_SECONDS),
        ("TCP_KEEPCNT", _PROBES),
    ):
        # Not every system has each of them, or all that Python has names for; a Unix socket has none.
        with contextlib.suppress(AttributeError, OSError):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
