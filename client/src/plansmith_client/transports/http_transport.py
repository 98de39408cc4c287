"""HTTP: urllib3's thread-safe connection pool with a codec of our own.

Not tritonclient's HTTP client: it is not safe to use from several threads, and it brings gevent into the process.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, cast

import urllib3
from urllib3 import exceptions

from plansmith_client._version import USER_AGENT
from plansmith_client.errors import ClientError, ProtocolError
from plansmith_client.operations import Infer, IsModelReady, IsServerLive, IsServerReady, ReadServerMetadata
from plansmith_client.transports.failures import (
    STATUS_CODES,
    client_closed,
    deadline_exceeded,
    error_from_answer,
    malformed_answer,
    server_unavailable,
)
from plansmith_client.transports.http_sockets import (
    BoundedHTTPConnection,
    BoundedHTTPSConnection,
    bounded_ssl_context,
)
from plansmith_client.transports.http_wire import EXCHANGES, Reply, Request, infer_request

if TYPE_CHECKING:
    from plansmith_client.addresses import Address
    from plansmith_client.deadlines import Deadline
    from plansmith_client.operations import Answer_co, Operation

__all__ = ["HttpTransport", "error_from_exception"]

# Connections kept for reuse. More are opened when more threads call at once, so that nobody waits for one.
_KEPT_CONNECTIONS = 256
_OK = 200
# Triton of 2024 says 400 where it is not ready, later ones 503; other servers 404 for a model that they do not have.
_NOT_READY = {IsServerLive: (400, 503), IsServerReady: (400, 503), IsModelReady: (400, 404, 503)}


class HttpTransport:
    """Carries operations over a pool of HTTP connections.

    Args:
        address: of scheme `http` or `https`; the latter trusts the system's authorities, or those in the file that the
            environment variable SSL_CERT_FILE names.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._url = address.url
        pool: urllib3.HTTPConnectionPool
        if address.scheme == "https":
            pool = urllib3.HTTPSConnectionPool(
                address.host, address.port, maxsize=_KEPT_CONNECTIONS, ssl_context=bounded_ssl_context()
            )
            pool.ConnectionCls = BoundedHTTPSConnection
        else:
            pool = urllib3.HTTPConnectionPool(address.host, address.port, maxsize=_KEPT_CONNECTIONS)
            pool.ConnectionCls = BoundedHTTPConnection
        self._pool = pool
        self._closed = False
        self._binary: bool | None = None

    def call(self, operation: Operation[Answer_co], deadline: Deadline) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        exchange = EXCHANGES[type(operation)]
        if isinstance(operation, Infer):
            request = infer_request(operation, binary=self._speaks_binary(deadline))
        else:
            request = exchange.request(operation)
        response = self._send(request, operation, deadline)
        if response.status in _NOT_READY.get(type(operation), ()) and not _is_html(response):
            return cast("Answer_co", False)  # noqa: FBT003
        if response.status != _OK:
            raise _error_from_response(response, operation, self._url)
        headers = {name.lower(): value for name, value in response.headers.items()}
        try:
            answer: Answer_co = exchange.answer(Reply(headers, response.data))
        except (ProtocolError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise malformed_answer(operation, self._url, error) from error
        return answer

    def close(self) -> None:
        """Close the connections; see `Transport.close`."""
        self._closed = True
        self._pool.close()

    def _speaks_binary(self, deadline: Deadline) -> bool:
        if self._binary is None:
            self._binary = "binary_tensor_data" in self.call(ReadServerMetadata(), deadline).extensions
        return self._binary

    def _send(self, request: Request, operation: Operation[Any], deadline: Deadline) -> urllib3.BaseHTTPResponse:
        headers = {**request.headers, "User-Agent": USER_AGENT}
        if request.body:
            headers["Content-Length"] = str(sum(map(len, request.body)))
        try:
            return self._pool.urlopen(
                request.method,
                self._address.path + request.path,
                # urllib3 sends each part as it is; its annotation only knows bytes.
                body=cast("tuple[bytes, ...]", request.body) or None,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=deadline.remaining()),
            )
        except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if self._closed:
                raise client_closed(self._url) from error
            raise error_from_exception(error, operation, self._address, deadline.timeout) from error


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
        hint = f"what listens there does not speak HTTP: if it is Triton's gRPC port, leave out {address.scheme}://"
        return malformed_answer(operation, url, hint)
    incomplete = (exceptions.IncompleteRead, http.client.IncompleteRead, exceptions.SSLError, exceptions.ProxyError)
    if isinstance(cause, (OSError, *incomplete)) and not isinstance(error, exceptions.InvalidChunkLength):
        return _connection_error(cause, url)
    return malformed_answer(operation, url, f"{type(cause).__name__}: {cause}")


def _connection_error(error: BaseException, url: str) -> ClientError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return server_unavailable(url, reason, "name its authority in SSL_CERT_FILE if you trust it")
    return server_unavailable(url, reason)


def _error_from_response(response: urllib3.BaseHTTPResponse, operation: Operation[Any], url: str) -> ClientError:
    text = _error_text(response)
    code = STATUS_CODES.get(response.status)
    if code is None or (code == "NOT_FOUND" and _is_html(response)):
        return malformed_answer(operation, url, f"HTTP status {response.status}: {text}")
    return error_from_answer(code, text, operation, url)


def _error_text(response: urllib3.BaseHTTPResponse) -> str:
    text = response.data.decode(errors="replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return f"HTTP status {response.status}" if _is_html(response) or not text.strip() else text
    if isinstance(parsed, dict):
        text = str(parsed.get("error") or parsed.get("detail") or text)
    return text


def _is_html(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether some other web server answered: an inference server sends JSON, or nothing."""
    return "html" in response.headers.get("content-type", "")
