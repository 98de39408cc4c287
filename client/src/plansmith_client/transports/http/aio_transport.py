"""HTTP for an event loop: the same calls over connections that await."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from plansmith_client.protocol.operations import ReadModelMetadata
from plansmith_client.transports.connections import NO_HEADERS, Connection
from plansmith_client.transports.http.aio_connections import AioConnectionPool
from plansmith_client.transports.http.calls import FAILURES, HttpCalls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["HttpAioTransport"]


class HttpAioTransport:
    """Carries operations over the HTTP connections of the running event loop; in another loop it opens new ones.

    Arguments as of `HttpCalls`.
    """

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        self._calls = HttpCalls(address, connection)
        self.reopen()

    def close_idle(self) -> None:
        """Close connections that carry no request; see `Transport.close_idle`."""
        if self._loop is asyncio.get_running_loop():
            self._pool.close()

    def reopen(self) -> None:
        """Forget the connections; see `Transport.reopen`."""
        calls = self._calls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: AsyncGenerator[None, None] | None = None
        self._pool = AioConnectionPool(calls.address, calls.ssl_context, calls.connection)

    async def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        headers = await self._calls.connection.awaited_headers(headers, deadline)
        exchanges = self._calls.call(operation, deadline, headers)
        try:
            message = next(exchanges)
            pool = await self._pool_of_this_loop()
            while True:
                try:
                    response = await pool.exchange(message, deadline)
                except Exception as error:  # noqa: BLE001, PERF203 - the generator makes it one of ours
                    message = exchanges.throw(error)
                else:
                    message = exchanges.send(response)
        except StopIteration as end:
            answer: Answer_co = end.value
            return answer

    async def stream(
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[InferResult]:
        """Send the request by the generate extension and yield its responses; see `Transport.stream`."""
        headers = await self._calls.connection.awaited_headers(headers, deadline)
        metadata = await self.call(ReadModelMetadata(operation.name, operation.version), deadline, headers)
        message, answers = self._calls.stream(operation, metadata, headers)
        arriving = (await self._pool_of_this_loop()).stream(message, deadline)
        try:
            async for reader in arriving:
                for result in answers.read(reader):
                    yield result
        except FAILURES as error:
            raise self._calls.stream_failure(error, operation, deadline) from error
        finally:
            await arriving.aclose()

    async def close(self) -> None:
        """Close the connections; see `Transport.close`."""
        self._calls.is_closed = True
        if self._ending is not None and self._loop is asyncio.get_running_loop():
            ending, self._ending = self._ending, None
            await ending.aclose()

    async def _pool_of_this_loop(self) -> AioConnectionPool:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                self.reopen()
            self._loop = loop
            # A loop ends its asynchronous generators before it is closed.
            self._ending = _open_until_the_end(self._pool)
            await anext(self._ending)
        return self._pool


async def _open_until_the_end(pool: AioConnectionPool) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        pool.close()
        # The loop closes the sockets with its next turn.
        await asyncio.sleep(0)
