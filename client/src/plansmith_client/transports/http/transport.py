"""HTTP: connections of the client's own with a codec of its own.

Not tritonclient's HTTP client: it is not safe to use from several threads, and it brings gevent into the process.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import DeadlineExceeded
from plansmith_client.protocol.operations import Infer, ReadServerMetadata
from plansmith_client.transports.certificates import trusting_context
from plansmith_client.transports.connections import NO_HEADERS, Connection
from plansmith_client.transports.failures import (
    client_closed,
    deadline_exceeded,
    headers_too_large,
    malformed_answer,
    server_unavailable,
    streams_need_grpc,
)
from plansmith_client.transports.http.connections import BrokenAnswerError, ConnectionPool, NoHttpError
from plansmith_client.transports.http.exchanges import (
    PROBE,
    Response,
    answer_from_response,
    has_large_headers,
    prepare_request,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.errors import ClientError
    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.http.wire import Request

__all__ = ["HttpTransport", "error_from_exception"]


class HttpTransport:
    """Carries operations over a pool of HTTP connections.

    Args:
        address: of scheme `http` or `https`; the latter trusts the system's authorities, those in the file that the
            environment variable SSL_CERT_FILE names, or the connection's own.
        connection: how to connect.
    """

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        self._address = address
        self._url = address.url
        self._connection = connection or Connection()
        self._ssl_context = trusting_context(self._connection) if address.scheme == "https" else None
        self._closed = False
        self._binary: bool | None = None
        self.reopen()

    def reopen(self) -> None:
        """Begin a new pool; see `Transport.reopen`."""
        self._pool = ConnectionPool(self._address, self._ssl_context, self._connection.server_name)

    def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        binary = self._speaks_binary(deadline) if isinstance(operation, Infer) else True
        request = prepare_request(operation, self._connection, headers, binary=binary)
        return answer_from_response(self._send(request, operation, deadline), operation, self._url)

    def stream(
        self,
        operation: Infer,
        deadline: Deadline,  # noqa: ARG002
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002
    ) -> Iterator[InferResult]:
        """Refused: the protocol streams over gRPC only; see `Transport.stream`."""
        raise streams_need_grpc(operation, self._url)
        yield  # makes this a generator, as the seam has it

    def close(self) -> None:
        """Close the connections; see `Transport.close`."""
        self._closed = True
        self._pool.close()

    def _speaks_binary(self, deadline: Deadline) -> bool:
        if self._binary is None:
            self._binary = "binary_tensor_data" in self.call(ReadServerMetadata(), deadline).extensions
        return self._binary

    def _send(self, request: Request, operation: Operation[Any], deadline: Deadline) -> Response:
        if self._closed:
            raise client_closed(self._url)
        try:
            return self._exchange(request, deadline)
        except (OSError, BrokenAnswerError, NoHttpError) as error:
            if self._closed:
                raise client_closed(self._url) from error
            unanswered = isinstance(error, OSError) and not isinstance(error, TimeoutError)
            if unanswered and has_large_headers(request) and self._answers(deadline):
                raise headers_too_large(operation, self._url, str(error)) from error
            raise error_from_exception(error, operation, self._address, deadline.timeout) from error

    def _answers(self, deadline: Deadline) -> bool:
        try:
            self._exchange(PROBE, deadline)
        except (OSError, BrokenAnswerError, NoHttpError, DeadlineExceeded):
            return False
        return True

    def _exchange(self, request: Request, deadline: Deadline) -> Response:
        return self._pool.exchange(self._address.path + request.path, request, deadline)


def error_from_exception(error: Exception, operation: Operation[Any], address: Address, timeout: float) -> ClientError:
    """The error for what `ConnectionPool.exchange` raises."""
    url = address.url
    if isinstance(error, TimeoutError):
        return deadline_exceeded(operation, url, timeout)
    if isinstance(error, BrokenAnswerError):
        return server_unavailable(url, "the connection ended in the middle of the answer")
    if isinstance(error, NoHttpError):
        hint = f"what listens there does not speak HTTP ({error}): if it is Triton's gRPC port, leave out "
        return malformed_answer(operation, url, f"{hint}{address.scheme}://")
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in reason:
        return server_unavailable(url, reason, "name its authority with ca_file= or SSL_CERT_FILE if you trust it")
    return server_unavailable(url, reason)
