"""gRPC for an event loop: the same messages over grpc.aio."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from plansmith_client.protocol.answers import MALFORMED
from plansmith_client.transports.connections import NO_HEADERS, Connection
from plansmith_client.transports.failures import client_closed, malformed_answer
from plansmith_client.transports.grpc.channels import (
    call_metadata,
    channel_credentials,
    channel_options,
    check_size,
    error_from_rpc,
    grpc_compression,
    read_response,
)
from plansmith_client.transports.grpc.wire import RPCS, read_answer, stream_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["GrpcAioTransport"]


class GrpcAioTransport:
    """Carries operations over gRPC channels of the running event loop; in another loop it opens new ones.

    Args:
        address: of scheme `grpc` or `grpcs`.
        connection: how to connect.
    """

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        self._address = address
        self._url = address.url
        self._connection = connection or Connection()
        self._compression = grpc_compression(self._connection)
        self._credentials = channel_credentials(address, self._connection)
        self._closed = False
        self.reopen()

    def reopen(self) -> None:
        """Forget the channels; see `Transport.reopen`."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: list[Any] = []
        self._stubs: list[Any] = []
        self._turn = itertools.count()

    def _stub(self) -> Any:
        if self._closed:
            raise client_closed(self._url)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self.reopen()
            self._loop = loop
            self._channels = [self._channel(number) for number in range(self._connection.channels)]
            self._stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        return self._stubs[next(self._turn) % len(self._stubs)]

    def _channel(self, number: int) -> Any:
        options = channel_options(self._connection, number)
        if self._credentials is not None:
            return grpc.aio.secure_channel(self._address.target, self._credentials, options)
        return grpc.aio.insecure_channel(self._address.target, options)

    async def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        rpc = RPCS[type(operation)]
        request = rpc.request(operation)
        if self._connection.make_token is not None:
            headers = await self._connection.awaited_headers(headers, deadline)
        metadata = call_metadata(self._connection, headers)
        method = getattr(self._stub(), rpc.method)
        try:
            reply = await method(
                request, timeout=deadline.remaining(), metadata=metadata, compression=self._compression
            )
        except grpc.RpcError as error:
            if self._closed:
                raise client_closed(self._url) from error
            raise error_from_rpc(error, operation, self._url, deadline) from error
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            # grpc cancels calls in flight when their channel is closed.
            if self._closed and not _is_being_cancelled():
                raise client_closed(self._url) from error
            raise
        try:
            check_size(reply, self._connection)
            answer: Answer_co = read_answer(operation, reply)
        except MALFORMED as error:
            raise malformed_answer(operation, self._url, error) from error
        return answer

    async def stream(
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[InferResult]:
        """Send the request on a stream of its own and give its responses; see `Transport.stream`."""
        request = stream_request(operation)
        headers = await self._connection.awaited_headers(headers, deadline)
        metadata = call_metadata(self._connection, headers)
        responses = self._stub().ModelStreamInfer(
            iter((request,)), timeout=deadline.remaining(), metadata=metadata, compression=self._compression
        )
        try:
            async for reply in responses:
                result = read_response(reply, operation, self._connection, self._url)
                if result is not None:
                    yield result
        except grpc.RpcError as error:
            if self._closed:
                raise client_closed(self._url) from error
            raise error_from_rpc(error, operation, self._url, deadline) from error
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            if self._closed and not _is_being_cancelled():
                raise client_closed(self._url) from error
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
