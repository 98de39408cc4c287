"""HTTP for threads that block: connections of the client's own with a codec of its own.

Not tritonclient's HTTP client: it is not safe to use from several threads, and it brings gevent into the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.protocol.operations import ReadModelMetadata
from plansmith_client.transports.connections import NO_HEADERS, Connection
from plansmith_client.transports.http.calls import FAILURES, HttpCalls
from plansmith_client.transports.http.connections import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["HttpTransport"]


class HttpTransport:
    """Carries operations over a pool of HTTP connections; arguments as of `HttpCalls`."""

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        self._calls = HttpCalls(address, connection)
        self.reopen()

    def close_idle(self) -> None:
        """Close connections that carry no request; see `Transport.close_idle`."""
        self._pool.close()

    def reopen(self) -> None:
        """Begin a new pool; see `Transport.reopen`."""
        calls = self._calls
        self._pool = ConnectionPool(calls.address, calls.ssl_context, calls.connection)

    def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        exchanges = self._calls.call(operation, deadline, headers)
        try:
            message = next(exchanges)
            while True:
                try:
                    response = self._pool.exchange(message, deadline)
                except Exception as error:  # noqa: BLE001, PERF203 - the generator makes it one of ours
                    message = exchanges.throw(error)
                else:
                    message = exchanges.send(response)
        except StopIteration as end:
            answer: Answer_co = end.value
            return answer

    def stream(
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Iterator[InferResult]:
        """Send the request by the generate extension and yield its responses; see `Transport.stream`."""
        metadata = self.call(ReadModelMetadata(operation.name, operation.version), deadline, headers)
        message, answers = self._calls.stream(operation, metadata, headers)
        try:
            for reader in self._pool.stream(message, deadline):
                yield from answers.read(reader)
        except FAILURES as error:
            raise self._calls.stream_failure(error, operation, deadline) from error

    def close(self) -> None:
        """Close the connections; see `Transport.close`."""
        self._calls.is_closed = True
        self._pool.close()
