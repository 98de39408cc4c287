"""The seam for I/O: everything above it is independent of the protocol on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["AsyncTransport", "Transport", "Transports", "open_async_transport", "open_transport"]


class _Connections(Protocol):
    """What a transport has of one server."""

    def close_idle(self) -> None:
        """Close connections as soon as they carry no request: the server has gone."""

    def reopen(self) -> None:
        """Forget all connections without ending them: after a fork they belong to the parent."""


class Transport(_Connections, Protocol):
    """Carries operations to one server. Safe to use from many threads at once."""

    def call(self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = ...) -> Answer_co:
        """Send the operation and return its answer.

        Raises:
            ClientError: one of `plansmith_client.errors` for any failure; nothing else is raised.
        """

    def stream(self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = ...) -> Iterator[InferResult]:
        """Send the request and yield its responses as they arrive; closing the iterator cancels the request.

        Raises:
            InvalidInput: over HTTP, the request has a shape that its streams cannot carry.
            ClientError: as `call`.
        """

    def close(self) -> None:
        """Close all connections; later calls raise ClientClosed, and calls in flight may."""


class AsyncTransport(_Connections, Protocol):
    """Carries operations to one server for the tasks of an event loop."""

    async def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = ...
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""

    def stream(
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = ...
    ) -> AsyncIterator[InferResult]:
        """Send the request and yield its responses as they arrive; see `Transport.stream`."""

    async def close(self) -> None:
        """Close all connections; see `Transport.close`."""


class Transports(Protocol):
    """Makes transports, as the two functions below do; `plansmith_client.testing.FakeServer` is one."""

    def open_transport(self, address: Address, connection: Connection) -> Transport:
        """The transport for an address."""

    def open_async_transport(self, address: Address, connection: Connection) -> AsyncTransport:
        """The same for an event loop."""


# Imported on use: a client of HTTP should not wait for gRPC to load.


def open_transport(address: Address, connection: Connection | None = None) -> Transport:
    """The transport for an address. Nothing is connected before the first call.

    Raises:
        InvalidInput: a certificate cannot be read.
    """
    if address.scheme in ("grpc", "grpcs"):
        from plansmith_client.transports.grpc.transport import GrpcTransport  # noqa: PLC0415

        return GrpcTransport(address, connection)
    from plansmith_client.transports.http.transport import HttpTransport  # noqa: PLC0415

    return HttpTransport(address, connection)


def open_async_transport(address: Address, connection: Connection | None = None) -> AsyncTransport:
    """The same for an event loop.

    Raises:
        InvalidInput: a certificate cannot be read.
    """
    if address.scheme in ("grpc", "grpcs"):
        from plansmith_client.transports.grpc.aio_transport import GrpcAioTransport  # noqa: PLC0415

        return GrpcAioTransport(address, connection)
    from plansmith_client.transports.http.aio_transport import HttpAioTransport  # noqa: PLC0415

    return HttpAioTransport(address, connection)
