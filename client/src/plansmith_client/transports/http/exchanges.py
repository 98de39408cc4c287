"""What the two HTTP transports share: a request ready to send, and the answer or the error in a response."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from plansmith_client._version import USER_AGENT
from plansmith_client.errors import ClientError, ProtocolError
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
    error_from_answer,
    headers_too_large,
    malformed_answer,
    server_unavailable,
)
from plansmith_client.transports.http.wire import EXCHANGES, Reply, Request, infer_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.transports.connections import Connection

__all__ = ["PROBE", "Response", "answer_from_response", "has_large_headers", "prepare_request"]

PROBE = Request("GET", "/v2/health/live", {"User-Agent": USER_AGENT})
"""Any server of the protocol answers it; without what the caller adds to requests."""

_OK = 200
_HEADERS_TOO_LARGE = 431
# Triton of 2024 says 400 where it is not ready, later ones 503; other servers 404 for a model that they do not have.
_NOT_READY = {IsServerLive: (400, 503), IsServerReady: (400, 503), IsModelReady: (400, 404, 503)}
# The fastest level: the network is what it is to spare, and tensors of floats compress badly anyway.
_LEVEL = 1
_EXTENSIONS = (ReadConfigDocument, ReadStatistics, LoadModel, UnloadModel, TraceSettings)
# Servers and proxies take 8 KiB or more.
_LARGE_HEADERS = 4 * 1024
_DELIMITERS = {"content-length", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response; names of headers in lower case, the body decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_html(self) -> bool:
        """Whether some other web server answered: an inference server sends JSON, or nothing."""
        return "html" in self.headers.get("content-type", "")


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
    complete = {**request.headers, "User-Agent": USER_AGENT, **connection.call_headers(headers)}
    if connection.server_name:
        complete["Host"] = connection.server_name
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
    """Whether a server may refuse the request for its headers: Triton does so by closing the connection.

    A connection that broke is taken for that refusal where the server answers `PROBE` afterwards.
    """
    return sum(len(name) + len(value) for name, value in request.headers.items()) > _LARGE_HEADERS


def answer_from_response(response: Response, operation: Operation[Answer_co], url: str) -> Answer_co:
    """The answer in a response.

    Raises:
        ClientError: the response is an error, or not one of the protocol.
    """
    if response.status in _NOT_READY.get(type(operation), ()) and not response.is_html:
        return cast("Answer_co", False)  # noqa: FBT003
    if response.status != _OK:
        raise _error_from_response(response, operation, url)
    try:
        answer: Answer_co = EXCHANGES[type(operation)].answer(Reply(response.headers, response.body))
    except (ProtocolError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if not _DELIMITERS & set(response.headers):
            # Python's parser takes the end of a connection for the end of the headers.
            raise server_unavailable(url, "the connection ended in the middle of the answer") from error
        raise malformed_answer(operation, url, error) from error
    return answer


def _error_from_response(response: Response, operation: Operation[Any], url: str) -> ClientError:
    text = _error_text(response)
    if response.status == _HEADERS_TOO_LARGE:
        return headers_too_large(operation, url, text)
    code = STATUS_CODES.get(response.status)
    if code is None or (code == "NOT_FOUND" and response.is_html):
        return malformed_answer(operation, url, f"HTTP status {response.status}: {text}")
    if isinstance(operation, _EXTENSIONS) and text.lower() == "not found":
        # No word of a model: what is not there is the call.
        code = "UNIMPLEMENTED"
    return error_from_answer(code, text, operation, url)


def _error_text(response: Response) -> str:
    text = response.body.decode(errors="replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return f"HTTP status {response.status}" if response.is_html or not text.strip() else text
    if isinstance(parsed, dict):
        text = str(parsed.get("error") or parsed.get("detail") or text)
    return text
