"""HTTP/1.1 over the connections of an event loop. The deadline bounds a whole exchange, as in `connections`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from plansmith_client.transports.http.dialing import is_numeric, opened_socket
from plansmith_client.transports.http.exchanges import is_timeout
from plansmith_client.transports.http.idle import Pool, keep_alive
from plansmith_client.transports.http.responses import ResponseReader
from plansmith_client.transports.workers import Workers

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncGenerator

    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.http.exchanges import Message
    from plansmith_client.transports.http.responses import Response
    from plansmith_client.transports.proxies import Proxy

__all__ = ["AioConnection", "AioConnectionPool"]

# The transport of asyncio copies what the network does not take at once.
_CHUNK = 256 * 1024
# Connections that are made at once, each by a thread.
_MOST_DIALLED = 64


class AioConnectionPool(Pool):
    """The connections of one event loop to one server."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, options: Connection) -> None:
        super().__init__(address, context, options)
        self._dialling = asyncio.Semaphore(_MOST_DIALLED)

    async def exchange(self, message: Message, deadline: Deadline) -> Response:
        """Send a request and read its response; see `ConnectionPool.exchange`."""
        kept: AioConnection | None = self.take()
        if kept is not None:
            try:
                return await self._exchange(kept, message, deadline)
            except OSError as error:
                if kept.has_answered or not message.repeatable or is_timeout(error):
                    raise
        return await self._exchange(await self._connect(deadline), message, deadline)

    async def stream(self, message: Message, deadline: Deadline) -> AsyncGenerator[ResponseReader, None]:
        """Send a request and give its response as it arrives; see `ConnectionPool.stream`."""
        connection = await self._connect(deadline)
        try:
            async for reader in connection.stream(message, deadline):
                yield reader
        finally:
            connection.close()

    async def _exchange(self, connection: AioConnection, message: Message, deadline: Deadline) -> Response:
        try:
            response = await connection.exchange(message, deadline)
        except BaseException:
            connection.close()
            raise
        self.keep(connection)
        return response

    async def _connect(self, deadline: Deadline) -> AioConnection:
        remaining = deadline.remaining()
        opening = asyncio.ensure_future(self._opened(deadline))
        try:
            # Not wait_for(): before Python 3.12 it swallows a cancellation that comes as the connection is made.
            done, _ = await asyncio.wait([opening], timeout=remaining)
        except asyncio.CancelledError:
            _give_up(opening)
            raise
        if not done:
            _give_up(opening)
            raise TimeoutError("timed out")
        try:
            return opening.result()
        except ConnectionResetError as error:
            if error.args:
                raise
            raise ConnectionResetError(0, "it ended the handshake of TLS") from error

    async def _opened(self, deadline: Deadline) -> AioConnection:
        loop, address = asyncio.get_running_loop(), self._address
        options: dict[str, Any] = {}
        if self._context is not None:
            options = {"ssl": self._context, "server_hostname": self._server_name or address.host}
        if address.socket_path:
            return (await loop.create_unix_connection(AioConnection, address.socket_path))[1]
        if self._proxy is None and is_numeric(address.host):
            return (await loop.create_connection(AioConnection, address.host, address.port, **options))[1]
        async with self._dialling:
            options["sock"] = await _dialled(address, self._proxy, deadline)
        return (await loop.create_connection(AioConnection, **options))[1]


async def _dialled(address: Address, proxy: Proxy | None, deadline: Deadline) -> socket.socket:
    """A connected socket, from a thread of its own: the end of a program would wait for one of the loop's."""
    with contextlib.closing(Workers(1, "plansmith-connect")) as workers:
        dialling = workers.submit(opened_socket, address, proxy, deadline)
        try:
            return await asyncio.wrap_future(dialling)
        except BaseException:
            dialling.add_done_callback(_close_unused)
            raise


def _give_up(opening: asyncio.Future[AioConnection]) -> None:
    opening.add_done_callback(_close_unused)
    opening.cancel()


def _close_unused(ended: Any) -> None:
    if not ended.cancelled() and ended.exception() is None:
        ended.result().close()


class AioConnection(asyncio.Protocol):
    """One connection, which carries one request at a time; see `SocketConnection`.

    Attributes:
        has_answered: whether a byte of an answer to the last request has arrived.
        is_reusable: whether it can carry another request.
    """

    def __init__(self) -> None:
        self.has_answered = self.is_reusable = False
        self._transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None
        self._answered: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._is_quiet = True
        self._is_streaming = False

    async def exchange(self, message: Message, deadline: Deadline) -> Response:
        """Send a request and read its response; see `ConnectionPool.exchange`."""
        loop, remaining = asyncio.get_running_loop(), deadline.remaining()
        self.has_answered = self.is_reusable = False
        reader = self._reader = ResponseReader(message.coding, message.largest_answer)
        answered = self._answered = loop.create_future()
        timer = None if remaining is None else loop.call_later(remaining, self._fail, TimeoutError("timed out"))
        try:
            is_sent = await self._send(message, answered)
            await answered
        finally:
            if timer is not None:
                timer.cancel()
            if answered.done() and not answered.cancelled():
                # Its error is raised above, or that of cancelling the task is.
                answered.exception()
            self._reader = self._answered = None
        self.is_reusable = is_sent and self._lost is None and reader.is_reusable
        for response in reader.response():
            if response is not None:
                return response
            deadline.remaining()
            await asyncio.sleep(0)
        raise AssertionError("the last that a reader gives is the response")

    async def stream(self, message: Message, deadline: Deadline) -> AsyncGenerator[ResponseReader, None]:
        """Send a request and give its response as it arrives; see `ConnectionPool.stream`."""
        loop, transport = asyncio.get_running_loop(), self._transport
        assert transport is not None  # noqa: S101 - the pool gives a connection that is open
        self._is_streaming = True
        reader = self._reader = ResponseReader(message.coding, message.largest_answer)
        self._answered = loop.create_future()
        try:
            await self._send(message, self._answered)
            while not reader.is_complete:
                await asyncio.wait([self._answered], timeout=deadline.remaining())
                if not self._answered.done():
                    raise TimeoutError("timed out")
                self._answered.result()
                self._answered = loop.create_future()
                # What comes while the caller is busy waits in the network: the server is not to run ahead of it.
                transport.pause_reading()
                yield reader
                transport.resume_reading()
                if self._lost is not None:
                    reader.end()
        finally:
            if self._answered.done():
                # Its error is raised above, or nobody waits for it any more.
                self._answered.exception()
            self._reader = self._answered = None

    def is_quiet(self) -> bool:
        """Whether the server has neither closed it nor sent anything since the last response."""
        return self._is_quiet and self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close it, at once: what has not been sent is dropped."""
        if self._transport is not None:
            self._transport.abort()

    async def _send(self, message: Message, answered: asyncio.Future[None]) -> bool:
        """Send a request; gives whether all of it went before the server answered."""
        transport = self._transport
        if transport is None or self._lost is not None:
            raise self._lost or ConnectionResetError(0, "closed without an answer")
        for view in message.pieces():
            for start in range(0, len(view), _CHUNK):
                if self._writable is not None:
                    await asyncio.wait((self._writable, answered), return_when=asyncio.FIRST_COMPLETED)
                if answered.done() or transport.is_closing():
                    # A server that refuses a request says so before it has read all of it, or only hangs up.
                    return False
                transport.write(view[start : start + _CHUNK])
        return True

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream, since create_connection() made it
        self._transport = transport
        connected = transport.get_extra_info("socket")
        if connected is not None:
            keep_alive(connected)

    def data_received(self, data: bytes) -> None:
        """Read a part of the answer."""
        reader = self._reader
        if reader is None:
            # Nothing was asked.
            self._is_quiet = False
            return
        self.has_answered = True
        try:
            reader.feed(data)
        except Exception as error:  # noqa: BLE001 - raised by the task that waits for the answer
            self._fail(error)
            self.close()
        else:
            more = reader.is_complete or self._is_streaming
            if more and self._answered is not None and not self._answered.done():
                self._answered.set_result(None)

    def eof_received(self) -> None:
        """The server sends nothing more."""
        self._is_quiet = False
        self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended, or broke."""
        self._is_quiet = False
        self._end(error)
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _end(self, error: Exception | None) -> None:
        self._lost = error or self._lost or ConnectionResetError(0, "closed without an answer")
        reader, answered = self._reader, self._answered
        if reader is None or answered is None or answered.done():
            return
        if error is not None and not reader.has_begun:
            self._fail(error)
            return
        try:
            reader.end()
        except Exception as problem:  # noqa: BLE001 - raised by the task that waits for the answer
            self._fail(problem)
        else:
            answered.set_result(None)

    def pause_writing(self) -> None:
        """The network is slower than the request: `_send` waits."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The network has caught up."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
