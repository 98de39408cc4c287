"""Connections whose timeout bounds a whole call.

A socket's timeout bounds one operation: a server that sends a byte now and then is never late. Here a timeout counts
from the moment when it is set, for everything that follows; urllib3 sets it anew at each phase of a request to what is
left of the total. Only the lookup of the host's name cannot be bounded: it is the system's.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from plansmith_client.transports.certificates import trusting_context

if TYPE_CHECKING:
    from plansmith_client.connections import Connection

__all__ = ["BoundedHTTPConnection", "BoundedHTTPSConnection", "bounded_ssl_context"]


class _Bounded(socket.socket):
    """Overrides the methods through which http.client and urllib3 send and receive."""

    _end: float | None = None

    def settimeout(self, value: float | None, /) -> None:
        self._end = None if value is None else time.monotonic() + value
        super().settimeout(value)

    def _wait_no_longer_than_allowed(self) -> None:
        if self._end is not None:
            remaining = self._end - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            super().settimeout(remaining)

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        self._wait_no_longer_than_allowed()
        return super().recv_into(*arguments, **named)

    # Whatever arguments there are: where gevent has replaced socket.socket, its sendall() calls send() with its own.
    def send(self, *arguments: Any, **named: Any) -> int:
        self._wait_no_longer_than_allowed()
        return super().send(*arguments, **named)

    def sendall(self, *arguments: Any, **named: Any) -> None:
        self._wait_no_longer_than_allowed()
        super().sendall(*arguments, **named)


class _BoundedSSLSocket(_Bounded, ssl.SSLSocket):
    pass


class _Connecting(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        """Connect to the first address of the host that accepts, within the connection's timeout in all."""
        timeout = self.timeout if isinstance(self.timeout, (int, float)) else None
        end = None if timeout is None else time.monotonic() + timeout
        try:
            addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror(str(error))) from error
        failure: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in addresses:
            remaining = None if end is None else end - time.monotonic()
            if remaining is not None and remaining <= 0:
                break
            connection = _Bounded(family, kind, protocol)
            try:
                connection.settimeout(remaining)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
                continue
            connection.settimeout(None if end is None else max(end - time.monotonic(), 1e-3))
            return connection
        if isinstance(failure, TimeoutError) or (end is not None and time.monotonic() >= end):
            raise ConnectTimeoutError(self, f"no connection to {self.host} within {timeout} s") from failure
        raise NewConnectionError(self, str(failure)) from failure


class BoundedHTTPConnection(_Connecting):
    """An HTTP connection whose timeout bounds connecting, sending and reading together."""


class BoundedHTTPSConnection(_Connecting, HTTPSConnection):
    """The same over TLS; its context has to be `bounded_ssl_context()`."""


def bounded_ssl_context(connection: Connection) -> ssl.SSLContext:
    """A context that checks the server's certificate, and shows the client's own where there is one.

    Raises:
        InvalidInput: a file is not what it should be.
    """
    context = trusting_context(connection)
    context.sslsocket_class = _BoundedSSLSocket
    return context
