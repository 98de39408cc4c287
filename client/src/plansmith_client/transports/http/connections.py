"""HTTP/1.1 for threads that block. The deadline bounds a whole exchange: connecting, sending, waiting and reading.

A socket's timeout bounds one operation: a server that sends a byte now and then is never late. Here each wait is given
what is left of the call's deadline. Only the lookup of the host's name cannot be bounded: it is the system's.

The sockets do not block. One with a timeout costs further system calls, and each of them releases the interpreter's
lock, for which a thread has to wait again where many want it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from plansmith_client.transports.http.dialing import opened_socket
from plansmith_client.transports.http.exchanges import is_timeout
from plansmith_client.transports.http.idle import Pool, keep_alive
from plansmith_client.transports.http.responses import ResponseReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.http.exchanges import Message
    from plansmith_client.transports.http.responses import Response

__all__ = ["ConnectionPool", "SocketConnection"]

_CHUNK = 256 * 1024
# poll needs no descriptor of its own; Windows lacks it.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.DefaultSelector)

_Result = TypeVar("_Result")


class ConnectionPool(Pool):
    """The connections to one server, for threads that block."""

    def exchange(self, message: Message, deadline: Deadline) -> Response:
        """Send a request and read its response.

        A kept connection that breaks before the first byte of an answer is replaced at once by a new one, if the
        request is safe to repeat.

        Raises:
            OSError: no connection, or it broke; `TimeoutError` if the deadline has passed.
            BrokenAnswerError: it ended in the middle of the answer.
            NoHttpError: what came is not HTTP.
            InvalidAnswerError: the answer is too large, or not one that was asked for.
            DeadlineExceeded: nothing is left of the deadline.
        """
        kept: SocketConnection | None = self.take()
        if kept is not None:
            try:
                return self._exchange(kept, message, deadline)
            except OSError as error:
                if kept.has_answered or not message.repeatable or is_timeout(error):
                    raise
        return self._exchange(self._connect(deadline), message, deadline)

    def stream(self, message: Message, deadline: Deadline) -> Iterator[ResponseReader]:
        """Send a request on a connection of its own and give its response whenever more of it has arrived.

        Raises:
            OSError: as `exchange`, and the other errors listed there.
        """
        connection = self._connect(deadline)
        try:
            yield from connection.stream(message, deadline)
        finally:
            connection.close()

    def _exchange(self, connection: SocketConnection, message: Message, deadline: Deadline) -> Response:
        try:
            if deadline.is_cancellable:
                with deadline.aborting(connection.abort):
                    response = connection.exchange(message, deadline)
            else:
                response = connection.exchange(message, deadline)
        except BaseException:
            connection.close()
            raise
        self.keep(connection)
        return response

    def _connect(self, deadline: Deadline) -> SocketConnection:
        connection = opened_socket(self._address, self._proxy, deadline)
        try:
            if not self._address.socket_path:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connection)
            if self._context is not None:
                name = self._server_name or self._address.host
                connection = self._context.wrap_socket(connection, server_hostname=name, do_handshake_on_connect=False)
            opened = SocketConnection(connection)
            opened.shake_hands(deadline)
        except BaseException:
            connection.close()
            raise
        return opened


class SocketConnection:
    """One connection, which carries one request at a time.

    Attributes:
        has_answered: whether a byte of an answer to the last request has arrived.
        is_reusable: whether it can carry another request.
    """

    __slots__ = ("_is_encrypted", "_selector", "_socket", "has_answered", "is_reusable")

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(0)
        self._socket = connected
        self._is_encrypted = isinstance(connected, ssl.SSLSocket)
        self._selector = _Selector()
        self._selector.register(connected, selectors.EVENT_READ)
        self.has_answered = self.is_reusable = False

    def shake_hands(self, deadline: Deadline) -> None:
        """Agree on the keys of TLS, where that is used.

        Raises:
            OSError: the certificate is not trusted, or the connection broke; `TimeoutError` after the deadline.
            DeadlineExceeded: nothing is left of the deadline.
        """
        if isinstance(self._socket, ssl.SSLSocket):
            self._repeat(self._socket.do_handshake, deadline, selectors.EVENT_READ)

    def exchange(self, message: Message, deadline: Deadline) -> Response:
        """Send a request and read its response; see `ConnectionPool.exchange`."""
        broken = None
        self.has_answered = self.is_reusable = False
        try:
            self._send(message, deadline)
        except (BrokenPipeError, ConnectionResetError) as error:
            # A server that refuses a request says so before it has read all of it.
            broken = error
        reader = ResponseReader(message.coding, message.largest_answer)
        while not reader.is_complete:
            data = self._receive(deadline)
            if data:
                self.has_answered = True
                reader.feed(data)
            elif broken is not None and not reader.has_begun:
                raise broken
            else:
                reader.end()
        self.is_reusable = broken is None and reader.is_reusable
        for response in reader.response():
            if response is not None:
                return response
            deadline.remaining()
        raise AssertionError("the last that a reader gives is the response")

    def stream(self, message: Message, deadline: Deadline) -> Iterator[ResponseReader]:
        """Send a request and give its response as it arrives; see `ConnectionPool.stream`."""
        self._send(message, deadline)
        reader = ResponseReader(message.coding, message.largest_answer)
        while not reader.is_complete:
            data = self._receive(deadline)
            if data:
                reader.feed(data)
            else:
                reader.end()
            yield reader

    def is_quiet(self) -> bool:
        """Whether the server has neither closed it nor sent anything since the last response."""
        try:
            # Of the socket below TLS, which cannot look ahead itself. Windows has no select.poll(), and
            # select.select() takes no descriptor above 1023.
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def abort(self) -> None:
        """End what another thread waits for on it."""
        with contextlib.suppress(OSError):
            # Of the socket below TLS, which would wait for the other end.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._selector.close()
        self._socket.close()

    def _send(self, message: Message, deadline: Deadline) -> None:
        for piece in message.pieces():
            rest = piece
            while rest:
                deadline.remaining()
                rest = rest[self._repeat(partial(self._socket.send, rest), deadline, selectors.EVENT_WRITE) :]

    def _receive(self, deadline: Deadline) -> bytes:
        if not self._is_encrypted:
            # To read at once would be in vain: an answer takes a while. TLS may hold more than its socket does.
            self._wait_for(selectors.EVENT_READ, deadline)
        return self._repeat(partial(self._socket.recv, _CHUNK), deadline, selectors.EVENT_READ)

    def _repeat(self, operation: Callable[[], _Result], deadline: Deadline, event: int) -> _Result:
        """What an operation of the socket gives once it need not wait for `event`, or for what TLS needs first."""
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:  # noqa: PERF203 - a few turns
                self._wait_for(selectors.EVENT_READ, deadline)
            except ssl.SSLWantWriteError:
                self._wait_for(selectors.EVENT_WRITE, deadline)
            except BlockingIOError:
                self._wait_for(event, deadline)

    def _wait_for(self, event: int, deadline: Deadline) -> None:
        if event != selectors.EVENT_READ:
            self._selector.modify(self._socket, event)
        try:
            if not self._selector.select(deadline.remaining()):
                raise TimeoutError("timed out")
        finally:
            if event != selectors.EVENT_READ:
                self._selector.modify(self._socket, selectors.EVENT_READ)
