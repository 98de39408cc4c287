"""HTTP/1.1 connections whose deadline bounds a whole exchange: connecting, sending, waiting and reading.

A socket's timeout bounds one operation: a server that sends a byte now and then is never late. Here each operation is
given what is left of the call's deadline. Only the lookup of the host's name cannot be bounded: it is the system's.
Messages are parsed by llhttp (`httptools`), the parser of Node.js; in a call of half a millisecond a parser in Python
takes a third of the time.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import zlib
from typing import TYPE_CHECKING

import httptools

from plansmith_client.transports.http.exchanges import Response

if TYPE_CHECKING:
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.http.wire import Request

__all__ = ["BrokenAnswerError", "ConnectionPool", "NoHttpError"]

# Connections kept for reuse. More are opened when more threads call at once, so that nobody waits for one.
_KEPT_CONNECTIONS = 256
# Up to here one copy is cheaper than a second packet.
_WHOLE_MESSAGE = 64 * 1024
_CHUNK = 256 * 1024
_INFORMATIONAL = range(100, 200)


class NoHttpError(Exception):
    """What listens there does not speak HTTP."""


class BrokenAnswerError(Exception):
    """The connection ended in the middle of the answer."""


class ConnectionPool:
    """The connections to one server. Safe to use from many threads.

    Args:
        address: where it listens.
        context: for TLS; None for none.
        server_name: the name to expect in its certificate, where it is not the host.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None, server_name: str | None) -> None:
        self._address = address
        self._context = context
        self._server_name = server_name
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False

    def exchange(self, path: str, request: Request, deadline: Deadline) -> Response:
        """Send a request and read its response.

        Raises:
            OSError: no connection, or it broke; `TimeoutError` where the deadline has passed.
            BrokenAnswerError: it ended in the middle of the answer.
            NoHttpError: what came is no HTTP.
            DeadlineExceeded: nothing is left of the deadline.
        """
        connection = self._idle_connection() or self._connect(deadline)
        try:
            response, reusable = _exchange(connection, self._message(path, request), request.body, deadline)
        except BaseException:
            connection.close()
            raise
        if reusable:
            self._keep(connection)
        else:
            connection.close()
        return response

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _message(self, path: str, request: Request) -> bytes:
        lines = [f"{request.method} {path} HTTP/1.1"]
        if "Host" not in request.headers:
            lines.append(f"Host: {self._address.target}")
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _idle_connection(self) -> socket.socket | None:
        while self._idle:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if _is_quiet(connection):
                return connection
            connection.close()
        return None

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _KEPT_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self, deadline: Deadline) -> socket.socket:
        """Connect to the first address of the host that accepts."""
        address, failure = self._address, OSError("the name has no address")
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(f"the name {address.host!r} is none") from error
        for family, kind, protocol, _, place in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(deadline.remaining())
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(place)
                return self._secured(connection, deadline)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
        raise failure

    def _secured(self, connection: socket.socket, deadline: Deadline) -> socket.socket:
        if self._context is None:
            return connection
        encrypted = self._context.wrap_socket(
            connection, server_hostname=self._server_name or self._address.host, do_handshake_on_connect=False
        )
        try:
            # Step by step: a timeout of the socket would bound each byte of a handshake, and not the whole.
            while True:
                encrypted.settimeout(0)
                try:
                    encrypted.do_handshake()
                except ssl.SSLWantReadError:
                    _wait(encrypted, selectors.EVENT_READ, deadline)
                except ssl.SSLWantWriteError:
                    _wait(encrypted, selectors.EVENT_WRITE, deadline)
                else:
                    return encrypted
        except BaseException:
            encrypted.close()
            raise


def _wait(connection: socket.socket, event: int, deadline: Deadline) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, event)
        if not selector.select(deadline.remaining()):
            raise TimeoutError("timed out")


def _is_quiet(connection: socket.socket) -> bool:
    """Whether an idle connection is as it was left: one with something to read has been closed by the server."""
    connection.settimeout(0)
    try:
        # Of the socket below TLS, which cannot look ahead itself. Windows has no select.poll(), and select.select()
        # takes no descriptor above 1023.
        socket.socket.recv(connection, 1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class _Reader:
    """What llhttp calls while it reads a response."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.is_complete = False
        self.has_headers = False
        self.keeps_alive = False

    def on_message_begin(self) -> None:
        self.headers.clear()
        self.parts.clear()
        self.is_complete = self.has_headers = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.has_headers = True

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        # An informational response is followed by the one that is meant.
        self.is_complete = self.parser.get_status_code() not in _INFORMATIONAL
        # llhttp knows it only now.
        self.keeps_alive = self.parser.should_keep_alive()


def _exchange(
    connection: socket.socket, head: bytes, body: tuple[bytes | memoryview, ...], deadline: Deadline
) -> tuple[Response, bool]:
    """The response, and whether the connection may be used again."""
    broken = None
    try:
        _send(connection, head, body, deadline)
    except (BrokenPipeError, ConnectionResetError) as error:
        # A server that refuses a request says so before it has read all of it.
        broken = error
    reader = _Reader()
    parser, received = reader.parser, 0
    while not reader.is_complete:
        connection.settimeout(deadline.remaining())
        data = connection.recv(_CHUNK)
        if not data:
            if reader.has_headers and not {"content-length", "transfer-encoding"} & set(reader.headers):
                # Without a length the end of the connection is the end of the body.
                break
            raise broken or (BrokenAnswerError() if received else ConnectionResetError(0, "closed without an answer"))
        received += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise NoHttpError(str(error)) from error
    reusable = broken is None and reader.keeps_alive
    return Response(parser.get_status_code(), reader.headers, _decompressed(reader)), reusable


def _send(connection: socket.socket, head: bytes, body: tuple[bytes | memoryview, ...], deadline: Deadline) -> None:
    if sum(map(len, body)) <= _WHOLE_MESSAGE:
        connection.settimeout(deadline.remaining())
        connection.sendall(b"".join((head, *body)))
        return
    for part in (head, *body):
        # The timeout of sendall() bounds all of it.
        connection.settimeout(deadline.remaining())
        connection.sendall(part)


def _decompressed(reader: _Reader) -> bytes:
    body = b"".join(reader.parts) if len(reader.parts) != 1 else reader.parts[0]
    encoding = reader.headers.get("content-encoding", "identity").lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        try:
            # 32: gzip or zlib, as the data itself tells.
            return zlib.decompress(body, wbits=zlib.MAX_WBITS | 32)
        except zlib.error as error:
            raise NoHttpError(f"the body is not {encoding}: {error}") from error
    return body
