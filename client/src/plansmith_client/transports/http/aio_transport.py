"""HTTP for an event loop: aiohttp with the same codec."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import ClientError, DeadlineExceeded, MissingDependency
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
from plansmith_client.transports.http.exchanges import (
    PROBE,
    Response,
    answer_from_response,
    has_large_headers,
    prepare_request,
)

try:
    import aiohttp
except ImportError as error:  # pragma: no cover - a test installs the package without it
    raise MissingDependency(
        "AsyncClient over HTTP needs the package aiohttp: pip install 'plansmith-client[aio]', or use the gRPC URL"
    ) from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.http.wire import Request

__all__ = ["HttpAioTransport", "error_from_aiohttp"]

# Below this many bytes one copy is cheaper than several writes.
_WHOLE_BODY = 64 * 1024
# What aiohttp raises, of its own and of what lies below it.
_FAILURES = (aiohttp.ClientError, OSError, ValueError, RuntimeError, AssertionError)


class HttpAioTransport:
    """Carries operations over the HTTP connections of the running event loop; in another loop it opens new ones.

    Args:
        address: of scheme `http` or `https`.
        connection: how to connect.
    """

    def __init__(self, address: Address, connection: Connection | None = None) -> None:
        self._address = address
        self._url = address.url
        self._connection = connection or Connection()
        self._ssl_context = trusting_context(self._connection) if address.scheme == "https" else None
        self._base = f"{address.scheme}://{address.target}{address.path}"
        self._closed = False
        self._binary: bool | None = None
        self.reopen()

    def reopen(self) -> None:
        """Forget the connections; see `Transport.reopen`."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise client_closed(self._url)
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            # As many connections as tasks that call at once, so that nobody waits for one.
            connector = aiohttp.TCPConnector(limit=0, ssl=self._ssl_context or True)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            self._loop = loop
        return self._session

    async def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        binary = await self._speaks_binary(deadline) if isinstance(operation, Infer) else True
        request = prepare_request(operation, self._connection, headers, binary=binary)
        return answer_from_response(await self._send(request, operation, deadline), operation, self._url)

    async def stream(
        self,
        operation: Infer,
        deadline: Deadline,  # noqa: ARG002
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002
    ) -> AsyncIterator[InferResult]:
        """Refused: the protocol streams over gRPC only; see `Transport.stream`."""
        raise streams_need_grpc(operation, self._url)
        yield  # makes this a generator, as the seam has it

    async def close(self) -> None:
        """Close the connections; see `Transport.close`."""
        self._closed = True
        if self._session is not None and self._loop is asyncio.get_running_loop():
            await self._session.close()

    async def _speaks_binary(self, deadline: Deadline) -> bool:
        if self._binary is None:
            self._binary = "binary_tensor_data" in (await self.call(ReadServerMetadata(), deadline)).extensions
        return self._binary

    async def _send(self, request: Request, operation: Operation[Any], deadline: Deadline) -> Response:
        try:
            return await self._exchange(request, deadline)
        except asyncio.TimeoutError as error:
            raise deadline_exceeded(operation, self._url, deadline.timeout) from error
        except _FAILURES as error:
            if self._closed:
                raise client_closed(self._url) from error
            unanswered = isinstance(error, (aiohttp.ClientConnectionError, OSError))
            if unanswered and has_large_headers(request) and await self._answers(deadline):
                raise headers_too_large(operation, self._url, str(error)) from error
            raise error_from_aiohttp(error, operation, self._address) from error

    async def _answers(self, deadline: Deadline) -> bool:
        try:
            await self._exchange(PROBE, deadline)
        except (asyncio.TimeoutError, DeadlineExceeded, *_FAILURES):
            return False
        return True

    async def _exchange(self, request: Request, deadline: Deadline) -> Response:
        session = self._open_session()
        size = sum(map(len, request.body))
        async with session.request(
            request.method,
            self._base + request.path,
            data=(b"".join(request.body) if size < _WHOLE_BODY else _parts(request)) if request.body else None,
            headers=request.headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=deadline.remaining()),
            server_hostname=self._connection.server_name,
        ) as response:
            body = await response.read()
        return Response(response.status, {name.lower(): value for name, value in response.headers.items()}, body)


async def _parts(request: Request) -> AsyncIterator[bytes | memoryview]:
    for part in request.body:
        yield part


def error_from_aiohttp(error: Exception, operation: Operation[Any], address: Address) -> ClientError:
    """The error for an exception of aiohttp or of what lies below it; total over `aiohttp.ClientError`."""
    url = address.url
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = str(error.certificate_error)
        return server_unavailable(url, reason, "name its authority with ca_file= or SSL_CERT_FILE if you trust it")
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio words it anew: "Connect call failed".
        number = error.os_error.errno
        return server_unavailable(url, os.strerror(number) if number and number > 0 else str(error.os_error))
    if isinstance(error, aiohttp.ClientResponseError):
        hint = f"what listens there does not speak HTTP: if it is Triton's gRPC port, leave out {address.scheme}://"
        return malformed_answer(operation, url, hint if error.status == _BAD_REQUEST else error.message)
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)):
        return server_unavailable(url, (isinstance(error, OSError) and error.strerror) or str(error))
    return malformed_answer(operation, url, f"{type(error).__name__}: {error}")


# What aiohttp gives to an answer that it cannot parse.
_BAD_REQUEST = 400
