"""gRPC for an event loop: the same messages over grpc.aio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from plansmith_client.transports.connections import NO_HEADERS, Connection
from plansmith_client.transports.failures import client_closed
from plansmith_client.transports.grpc.calls import GrpcCalls
from plansmith_client.transports.grpc.wire import RPCS, stream_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from plansmith_client.errors import ClientError
    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["GrpcAioTransport"]

_FAILURES = (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError)


class GrpcAioTransport(GrpcCalls):
    """Carries operations over gRPC channels of the running event loop; in another loop it opens new ones.

    Arguments as of `GrpcCalls`.
    """

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        super().__init__(address, connection)
        self.reopen()

    def reopen(self) -> None:
        """Open new channels with the next call; see `Transport.reopen`."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def _enter_loop(self) -> None:
        if self._closed:
            raise client_closed(self._url)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._open_channels(grpc.aio)

    def _failed(self, error: BaseException, operation: Operation[Any], deadline: Deadline) -> ClientError | None:
        """The client's error for one of gRPC's; None where the caller itself was cancelled."""
        if isinstance(error, grpc.RpcError):
            return self._failure(error, operation, deadline)
        # grpc cancels calls in flight when their channel is closed.
        return client_closed(self._url) if self._closed and not _is_being_cancelled() else None

    async def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        kind = type(operation)
        request = RPCS[kind].request(operation)
        if self._connection.make_token is not None:
            headers = await self._connection.awaited_headers(headers, deadline)
        metadata = self._metadata(headers)
        self._enter_loop()
        try:
            reply = await self._method(kind)(
                request, timeout=deadline.remaining(), metadata=metadata, compression=self._compression
            )
        except _FAILURES as error:
            if failure := self._failed(error, operation, deadline):
                raise failure from error
            raise
        return self._answer(operation, reply)

    async def stream(
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[InferResult]:
        """Send the request on a stream of its own and give its responses; see `Transport.stream`."""
        request = stream_request(operation)
        metadata = self._metadata(await self._connection.awaited_headers(headers, deadline))
        self._enter_loop()
        responses = self._method(None)(
            iter((request,)), timeout=deadline.remaining(), metadata=metadata, compression=self._compression
        )
        try:
            async for reply in responses:
                result = self._response(operation, reply)
                if result is not None:
                    yield result
        except _FAILURES as error:
            if failure := self._failed(error, operation, deadline):
                raise failure from error
            raise
        finally:
            responses.cancel()

    async def close(self) -> None:
        """Close the channels; see `Transport.close`."""
        self._closed = True
        if self._loop is asyncio.get_running_loop():
            for channel in self._channels:
                await channel.close()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    # Unknown in Python 3.10: there a cancelled task ends in ClientClosed if the client was closed, too.
    cancelling = getattr(task, "cancelling", None)
    return bool(cancelling is not None and cancelling())
