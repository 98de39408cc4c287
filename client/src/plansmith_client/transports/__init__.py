"""The seam for I/O: everything above it neither knows nor imports what carries the messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from plansmith_client.addresses import Address
    from plansmith_client.deadlines import Deadline
    from plansmith_client.operations import Answer_co, Operation

__all__ = ["Transport", "open_transport"]


class Transport(Protocol):
    """Carries operations to one server. Safe to use from many threads at once."""

    def call(self, operation: Operation[Answer_co], deadline: Deadline) -> Answer_co:
        """Send the operation and return its answer.

        Raises:
            ClientError: one of the tree in `plansmith_client.errors`, whatever happened; nothing else.
        """
        ...

    def close(self) -> None:
        """Free what is held; further calls raise ClientClosed, and so may those that are under way."""
        ...


def open_transport(address: Address) -> Transport:
    """The transport for an address. Nothing is connected before the first call."""
    # Each brings its own libraries: who speaks HTTP should not wait for gRPC to load.
    if address.scheme in ("grpc", "grpcs"):
        from plansmith_client.transports.grpc_transport import GrpcTransport  # noqa: PLC0415

        return GrpcTransport(address)
    from plansmith_client.transports.http_transport import HttpTransport  # noqa: PLC0415

    return HttpTransport(address)
