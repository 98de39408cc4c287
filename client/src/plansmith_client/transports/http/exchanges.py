"""What the two HTTP transports share: a request as bytes, and the answer or the error in a response."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import ssl
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from plansmith_client._version import USER_AGENT
from plansmith_client.protocol.answers import MALFORMED, check_answer
from plansmith_client.protocol.operations import (
    Infer,
    IsModelReady,
    IsServerLive,
    IsServerReady,
    LoadModel,
    ReadConfigDocument,
    ReadStatistics,
    TraceSettings,
    UnloadModel,
)
from plansmith_client.transports.failures import (
    STATUS_CODES,
    deadline_exceeded,
    error_from_answer,
    headers_too_large,
    malformed_answer,
    server_unavailable,
)
from plansmith_client.transports.http.responses import BrokenAnswerError, InvalidAnswerError, NoHttpError
from plansmith_client.transports.http.wire import EXCHANGES, Reply, Request, infer_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from plansmith_client.errors import ClientError
    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection
    from plansmith_client.transports.http.responses import Response

__all__ = [
    "PROBE",
    "Message",
    "answer_from_response",
    "completed",
    "error_from_exception",
    "has_large_headers",
    "is_timeout",
    "message_from_request",
    "prepare_request",
]

PROBE = Request("GET", "/v2/health/live", {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
"""Any server of the protocol answers it; without what the caller adds to requests."""

_OK = 200
_NOT_FOUND = 404
_REDIRECTIONS = range(300, 400)
_BAD_REQUEST = 400
_PROXY_WANTS_CREDENTIALS = 407
_HEADERS_TOO_LARGE = 431
# Triton of 2024 says 400 where it is not ready, later ones 503; other servers 404 for a model that they do not have.
_NOT_READY = {IsServerLive: (400, 503), IsServerReady: (400, 503), IsModelReady: (400, 404, 503)}
_EMPTY = "it is empty, as all that Triton's metrics port gives; its HTTP port is 8000 unless set otherwise"
# The fastest level: compression is to save time on a slow network, and tensors of floats compress badly anyway.
_LEVEL = 1
_MAY_BE_MISSING = (Infer, ReadConfigDocument, ReadStatistics, LoadModel, UnloadModel, TraceSettings)
# Up to here one copy is cheaper than a second packet.
_WHOLE_MESSAGE = 64 * 1024
# Servers and proxies take 8 KiB or more.
_LARGE_HEADERS = 4 * 1024
# Of RFC 3986: what may stand in a path as it is, `%` included, since the caller may have quoted it.
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~"


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it travels, and which answers it accepts.

    Attributes:
        head: the request line and the headers.
        body: its parts.
        size: bytes of the body.
        coding: the content coding that the answer may have; `identity` for none.
        largest_answer: bytes of the largest body to accept.
        repeatable: whether it may be sent again if a kept connection breaks before an answer has begun.
    """

    head: bytes = field(repr=False)
    body: tuple[bytes | memoryview, ...] = field(repr=False)
    size: int
    coding: str
    largest_answer: int
    repeatable: bool

    def pieces(self) -> Iterable[memoryview]:
        """What is to be sent, one after the other; like the message itself, not shown by `repr`."""
        parts = (self.head, *self.body)
        return map(memoryview, (b"".join(parts),) if self.size <= _WHOLE_MESSAGE else parts)


def message_from_request(request: Request, address: Address, connection: Connection, *, repeatable: bool) -> Message:
    """The message that carries a request to the server at `address`."""
    prefix = quote(address.path, safe=_PATH_CHARACTERS)
    host = address._replace(host=connection.server_name) if connection.server_name else address
    lines = [f"{request.method} {prefix}{request.path} HTTP/1.1", f"Host: {host.authority}"]
    if connection.proxy is not None and address.scheme == "http":
        lines[0] = f"{request.method} http://{host.authority}{prefix}{request.path} HTTP/1.1"
        lines += [f"{name}: {value}" for name, value in connection.proxy.headers.items()]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return Message(
        ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"),
        request.body,
        sum(map(len, request.body)),
        request.headers.get("Accept-Encoding", "identity"),
        connection.largest_answer,
        repeatable,
    )


def prepare_request(
    operation: Operation[Any], connection: Connection, headers: Mapping[str, str], *, binary: bool
) -> Request:
    """The request of an operation, complete with its headers, compressed where the connection says so.

    Raises:
        InvalidInput: the operation or the token cannot be sent over HTTP.
    """
    if isinstance(operation, Infer):
        request = infer_request(operation, binary=binary)
    else:
        request = EXCHANGES[type(operation)].request(operation)
    return completed(request, connection, headers)


def completed(request: Request, connection: Connection, headers: Mapping[str, str]) -> Request:
    """A request with the headers that every request has, compressed where the connection says so.

    Raises:
        InvalidInput: the token cannot be sent.
    """
    complete = {**request.headers, "User-Agent": USER_AGENT, **connection.call_headers(headers)}
    body = request.body
    complete["Accept-Encoding"] = connection.compression or "identity"
    if body and connection.compression is not None:
        whole = b"".join(body)
        body = (gzip.compress(whole, _LEVEL) if connection.compression == "gzip" else zlib.compress(whole, _LEVEL),)
        complete["Content-Encoding"] = connection.compression
    if body:
        complete["Content-Length"] = str(sum(map(len, body)))
    return Request(request.method, request.path, complete, body)


def has_large_headers(request: Request) -> bool:
    """Whether a server may refuse the request for its path and headers: Triton does so by closing the connection.

    A connection that broke is taken for that refusal where the server answers `PROBE` afterwards.
    """
    size = len(request.path) + sum(len(name) + len(value) for name, value in request.headers.items())
    return size > _LARGE_HEADERS


def answer_from_response(response: Response, operation: Operation[Answer_co], address: Address) -> Answer_co:
    """The answer in a response of the server at `address`.

    Raises:
        ClientError: the response is an error, or does not follow the protocol.
    """
    if response.status in _NOT_READY.get(type(operation), ()) and not response.is_html:
        return cast("Answer_co", False)  # noqa: FBT003
    if response.status != _OK:
        raise _error_from_response(response, operation, address)
    try:
        places = operation.places if isinstance(operation, Infer) else {}
        answer: Answer_co = EXCHANGES[type(operation)].answer(Reply(response.headers, response.body, places))
        check_answer(operation, answer)
    except MALFORMED as error:
        if not response.has_length:
            # The end of the connection was taken for the end of the body.
            raise server_unavailable(address.url, "the connection ended in the middle of the answer") from error
        raise malformed_answer(operation, address.url, error if response.body else _EMPTY) from error
    return answer


def _error_from_response(response: Response, operation: Operation[Any], address: Address) -> ClientError:
    text, url = _error_text(response), address.url
    # The message does not mention a model: the server does not have this call.
    is_unknown = isinstance(operation, _MAY_BE_MISSING) and text.lower() == "not found"
    if response.status == _NOT_FOUND and address.path:
        text += f"; {address.path!r} of the URL stands before /v2: leave it out unless a gateway needs it"
    if response.status == _HEADERS_TOO_LARGE:
        return headers_too_large(operation, url, text)
    if response.status == _PROXY_WANTS_CREDENTIALS:
        text = f"the proxy wants credentials, proxy=http://user:password@host:port: {text}"
    if response.status == _BAD_REQUEST and response.is_html:
        # What gateways say of a port of TLS, and there of a client without a certificate.
        secured = "wants a certificate, name certificate_file= and key_file="
        text += f"; if it {'speaks TLS, write https://' if address.scheme == 'http' else secured}"
    leads_to = response.headers.get("location", "").partition("?")[0]
    if response.status in _REDIRECTIONS and "://" in leads_to:
        text += f", which leads to {leads_to}: write that server into the URL"
    code = STATUS_CODES.get(response.status)
    if code is None or (code == "NOT_FOUND" and response.is_html):
        return malformed_answer(operation, url, f"HTTP status {response.status}: {text}")
    return error_from_answer("UNIMPLEMENTED" if is_unknown else code, text, operation, url)


def _error_text(response: Response) -> str:
    text = response.body.decode(errors="replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return f"HTTP status {response.status}" if response.is_html or not text.strip() else text
    if isinstance(parsed, dict):
        text = str(parsed.get("error") or parsed.get("detail") or text)
    return text


def is_timeout(error: OSError) -> bool:
    """Whether the deadline has passed. The system's own timeouts, which have a number, are a broken connection."""
    return isinstance(error, TimeoutError) and error.errno is None


def error_from_exception(error: Exception, operation: Operation[Any], address: Address, timeout: float) -> ClientError:
    """The error for what a connection raises, of either kind."""
    url = address.url
    if isinstance(error, OSError) and is_timeout(error):
        return deadline_exceeded(operation, url, timeout)
    if isinstance(error, BrokenAnswerError):
        return server_unavailable(url, "the connection ended in the middle of the answer")
    if isinstance(error, NoHttpError):
        hint = f"what listens there does not speak HTTP ({error}): if it is Triton's gRPC port, leave out "
        tls = "; if it speaks TLS, write https://" if address.scheme == "http" else ""
        return malformed_answer(operation, url, f"{hint}{address.scheme}://{tls}")
    if isinstance(error, InvalidAnswerError):
        return malformed_answer(operation, url, error)
    return server_unavailable(url, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, (ssl.SSLError, socket.gaierror)):
        # asyncio has words of its own, "Connect call failed", and one error for all addresses of a host.
        numbered = re.search(r"\[Errno (\d+)\]", str(error))
        number = error.errno or (int(numbered[1]) if numbered else 0)
        if number > 0:
            # Windows has words for these numbers in a table of its own.
            return str(getattr(socket, "errorTab", {}).get(number) or os.strerror(number)).rstrip(".")
    return (isinstance(error, OSError) and error.strerror) or str(error)
