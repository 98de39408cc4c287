"""HTTP: urllib3's thread-safe connection pool with a codec of our own.

Not tritonclient's HTTP client: it is not safe to use from several threads, and it brings gevent into the process.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any, cast

import urllib3
from urllib3 import exceptions

from plansmith_client.connections import Connection
from plansmith_client.flows import NO_HEADERS
from plansmith_client.operations import Infer, ReadServerMetadata
from plansmith_client.transports.failures import (
    client_closed,
    deadline_exceeded,
    malformed_answer,
    server_unavailable,
    streams_need_grpc,
)
from plansmith_client.transports.http_exchanges import Response, answer_from_response, prepare_request
from plansmith_client.transports.http_sockets import (
    BoundedHTTPConnection,
    BoundedHTTPSConnection,
    bounded_ssl_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.addresses import Address
    from plansmith_client.deadlines import Deadline
    from plansmith_client.errors import ClientError
    from plansmith_client.operations import Answer_co, Operation
    from plansmith_client.results import InferResult
    from plansmith_client.transports.http_wire import Request

__all__ = ["HttpTransport", "error_from_exception"]

# Connections kept for reuse. More are opened when more threads call at once, so that nobody waits for one.
_KEPT_CONNECTIONS = 256
_HTTP = "HTTP/1."


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
        self._ssl_context = bounded_ssl_context(self._connection) if address.scheme == "https" else None
        self._closed = False
        self._binary: bool | None = None
        self.reopen()

    def reopen(self) -> None:
        """Begin a new pool; see `Transport.reopen`."""
        host, port, name = self._address.host, self._address.port, self._connection.server_name
        self._pool: urllib3.HTTPConnectionPool
        if self._ssl_context is not None:
            self._pool = urllib3.HTTPSConnectionPool(
                host,
                port,
                maxsize=_KEPT_CONNECTIONS,
                ssl_context=self._ssl_context,
                server_hostname=name,
                assert_hostname=name,
            )
            self._pool.ConnectionCls = BoundedHTTPSConnection
        else:
            self._pool = urllib3.HTTPConnectionPool(host, port, maxsize=_KEPT_CONNECTIONS)
            self._pool.ConnectionCls = BoundedHTTPConnection

    def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        binary = self._speaks_binary(deadline) if isinstance(operation, Infer) else True
        request = prepare_request(operation, self._connection, headers, binary=binary)
        return answer_from_response(self._send(request, operation, deadline), operation, self._url)

    def stream(self, operation: Infer, deadline: Deadline) -> Iterator[InferResult]:  # noqa: ARG002
        """Refused: the protocol streams over gRPC only; see `Transport.stream`."""
        raise streams_need_grpc(operation, self._url)

    def close(self) -> None:
        """Close the connections; see `Transport.close`."""
        self._closed = True
        self._pool.close()

    def _speaks_binary(self, deadline: Deadline) -> bool:
        if self._binary is None:
            self._binary = "binary_tensor_data" in self.call(ReadServerMetadata(), deadline).extensions
        return self._binary

    def _send(self, request: Request, operation: Operation[Any], deadline: Deadline) -> Response:
        try:
            response = self._pool.urlopen(
                request.method,
                self._address.path + request.path,
                # urllib3 sends each part as it is; its annotation only knows bytes.
                body=cast("tuple[bytes, ...]", request.body) or None,
                headers=dict(request.headers),
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=deadline.remaining()),
            )
        except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if self._closed:
                raise client_closed(self._url) from error
            raise error_from_exception(error, operation, self._address, deadline.timeout) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status, headers, response.data)


def error_from_exception(error: Exception, operation: Operation[Any], address: Address, timeout: float) -> ClientError:
    """The error for an exception of urllib3 or of what lies below it; total over `urllib3.exceptions`."""
    # urllib3 wraps what happened: ProtocolError("Connection aborted.", ConnectionResetError(...)).
    cause = next((part for part in error.args if isinstance(part, Exception)), error)
    url = address.url
    if isinstance(error, exceptions.NewConnectionError):
        return _connection_error(error.__cause__ or error, url)
    if isinstance(error, (exceptions.TimeoutError, TimeoutError)) or isinstance(cause, TimeoutError):
        return deadline_exceeded(operation, url, timeout)
    if isinstance(error, exceptions.ClosedPoolError):
        return client_closed(url)
    if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, ConnectionError):
        return _bad_status_line(str(cause), operation, address)
    incomplete = (exceptions.IncompleteRead, http.client.IncompleteRead, exceptions.SSLError, exceptions.ProxyError)
    if isinstance(cause, (OSError, *incomplete)) and not isinstance(error, exceptions.InvalidChunkLength):
        return _connection_error(cause, url)
    return malformed_answer(operation, url, f"{type(cause).__name__}: {cause}")


def _bad_status_line(line: str, operation: Operation[Any], address: Address) -> ClientError:
    if line and _HTTP.startswith(line[: len(_HTTP)]):
        return server_unavailable(address.url, "the connection ended in the middle of the answer")
    hint = f"what listens there does not speak HTTP: if it is Triton's gRPC port, leave out {address.scheme}://"
    return malformed_answer(operation, address.url, hint)


def _connection_error(error: BaseException, url: str) -> ClientError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return server_unavailable(url, reason, "name its authority with ca_file= or SSL_CERT_FILE if you trust it")
    return server_unavailable(url, reason)
