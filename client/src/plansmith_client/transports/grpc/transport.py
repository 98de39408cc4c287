"""gRPC: Triton's generated stubs over channels of the client's own.

Of tritonclient only the generated modules are used, not its client: the calls, deadlines and errors are ours.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from plansmith_client.protocol.answers import MALFORMED
from plansmith_client.transports.connections import NO_HEADERS, Connection
from plansmith_client.transports.failures import client_closed, malformed_answer
from plansmith_client.transports.grpc.channels import (
    CHANNEL_OPTIONS,
    call_metadata,
    channel_credentials,
    channel_options,
    check_size,
    error_from_rpc,
    error_from_status,
    grpc_compression,
    read_response,
)
from plansmith_client.transports.grpc.wire import RPCS, read_answer, stream_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["CHANNEL_OPTIONS", "GrpcTransport", "error_from_status"]


class GrpcTransport:
    """Carries operations over gRPC channels, which connect with the first call and again after a fault.

    Args:
        address: of scheme `grpc` or `grpcs`; the latter trusts the system's authorities, those in the file that the
            environment variable SSL_CERT_FILE names, or the connection's own.
        connection: how to connect.
    """

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        self._address = address
        self._url = address.url
        self._connection = connection or Connection()
        self._compression = grpc_compression(self._connection)
        self._credentials = channel_credentials(address, self._connection)
        self._closed = False
        self._open()

    def _open(self) -> None:
        self._channels = [self._channel(number) for number in range(self._connection.channels)]
        self._stubs: list[Any] = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._turn = itertools.count()

    def _channel(self, number: int) -> grpc.Channel:
        options = channel_options(self._connection, number)
        if self._credentials is not None:
            return grpc.secure_channel(self._address.target, self._credentials, options)
        return grpc.insecure_channel(self._address.target, options)

    def _stub(self) -> Any:
        stubs = self._stubs
        return stubs[0] if len(stubs) == 1 else stubs[next(self._turn) % len(stubs)]

    def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        rpc = RPCS[type(operation)]
        request = rpc.request(operation)
        metadata = call_metadata(self._connection, headers)
        method = getattr(self._stub(), rpc.method)
        remaining, compression = deadline.remaining(), self._compression
        try:
            if deadline.is_cancellable:
                pending = method.future(request, timeout=remaining, metadata=metadata, compression=compression)
                with deadline.aborting(pending.cancel):
                    reply = pending.result()
            else:
                reply = method(request, timeout=remaining, metadata=metadata, compression=compression)
        except grpc.RpcError as error:
            if self._closed:
                raise client_closed(self._url) from error
            raise error_from_rpc(error, operation, self._url, deadline) from error
        except ValueError as error:
            # What grpc raises for a channel that has been closed.
            raise client_closed(self._url) from error
        try:
            check_size(reply, self._connection)
            answer: Answer_co = read_answer(operation, reply)
        except MALFORMED as error:
            raise malformed_answer(operation, self._url, error) from error
        return answer

    def stream(
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Iterator[InferResult]:
        """Send the request on a stream of its own and yield its responses; see `Transport.stream`."""
        request = stream_request(operation)
        metadata = call_metadata(self._connection, headers)
        try:
            responses = self._stub().ModelStreamInfer(
                iter((request,)), timeout=deadline.remaining(), metadata=metadata, compression=self._compression
            )
        except ValueError as error:
            raise client_closed(self._url) from error
        try:
            for reply in responses:
                result = read_response(reply, operation, self._connection, self._url)
                if result is not None:
                    yield result
        except grpc.RpcError as error:
            if self._closed:
                raise client_closed(self._url) from error
            raise error_from_rpc(error, operation, self._url, deadline) from error
        finally:
            responses.cancel()

    def reopen(self) -> None:
        """Open new channels; see `Transport.reopen`."""
        self._open()

    def close(self) -> None:
        """Close the channels; see `Transport.close`."""
        self._closed = True
        for channel in self._channels:
            channel.close()
