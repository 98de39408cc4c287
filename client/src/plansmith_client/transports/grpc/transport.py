"""gRPC for threads that block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from plansmith_client.transports.connections import NO_HEADERS, Connection
from plansmith_client.transports.failures import client_closed
from plansmith_client.transports.grpc.calls import GrpcCalls
from plansmith_client.transports.grpc.wire import RPCS, stream_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["GrpcTransport"]


class GrpcTransport(GrpcCalls):
    """Carries operations over gRPC channels; arguments as of `GrpcCalls`."""

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        super().__init__(address, connection)
        self.reopen()

    def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        kind = type(operation)
        request = RPCS[kind].request(operation)
        metadata = self._metadata(headers)
        remaining, compression = deadline.remaining(), self._compression
        try:
            method = self._method(kind)
            if deadline.is_cancellable:
                pending = method.future(request, timeout=remaining, metadata=metadata, compression=compression)
                with deadline.aborting(pending.cancel):
                    reply = pending.result()
            else:
                reply = method(request, timeout=remaining, metadata=metadata, compression=compression)
        except grpc.RpcError as error:
            raise self._failure(error, operation, deadline) from error
        except ValueError as error:
            # What grpc raises for a channel that has been closed.
            raise client_closed(self._url) from error
        return self._answer(operation, reply)

    def stream(
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Iterator[InferResult]:
        """Send the request on a stream of its own and yield its responses; see `Transport.stream`."""
        request, metadata = stream_request(operation), self._metadata(headers)
        try:
            responses = self._method(None)(
                iter((request,)), timeout=deadline.remaining(), metadata=metadata, compression=self._compression
            )
        except ValueError as error:
            raise client_closed(self._url) from error
        try:
            for reply in responses:
                result = self._response(operation, reply)
                if result is not None:
                    yield result
        except grpc.RpcError as error:
            raise self._failure(error, operation, deadline) from error
        finally:
            responses.cancel()

    def reopen(self) -> None:
        """Open new channels; see `Transport.reopen`."""
        self._open_channels(grpc)

    def close(self) -> None:
        """Close the channels; see `Transport.close`."""
        self._closed = True
        for channel in self._channels:
            channel.close()
