"""How a client connects: TLS, credentials, headers, compression."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from plansmith_client.errors import DeadlineExceeded, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from ssl import SSLContext

    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.proxies import Proxy

__all__ = ["LARGEST_ANSWER", "NO_HEADERS", "Compression", "Connection", "checked_headers", "checked_token", "hidden"]

LARGEST_ANSWER = 2**31 - 1
"""The default limit of an answer, in bytes: a message of gRPC cannot be larger."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
Compression = Literal["gzip", "deflate"]

# RFC 9110: a field name is a token. What HTTP and gRPC set themselves is not the caller's.
_HEADER_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_HEADER_VALUE = r"[\x20-\x7e]*"
_OWN_HEADERS = {
    *("host", "connection", "content-length", "content-type", "content-encoding", "accept-encoding", "te"),
    *("transfer-encoding", "inference-header-content-length", "user-agent"),
}

_Value = TypeVar("_Value")


class _Secret(str):
    """Text that tracebacks with local variables, as services for errors record them, do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


class _SecretBytes(bytes):
    """The same of bytes, which are refused."""

    __slots__ = ()

    __repr__ = _Secret.__repr__


def hidden(value: _Value) -> _Value:
    """The same text or bytes, or collection of them, with a `repr` that does not show it; anything else as it is."""
    if isinstance(value, (str, bytes)):
        return cast("_Value", _Secret(value) if isinstance(value, str) else _SecretBytes(value))
    if isinstance(value, Mapping):
        return cast("_Value", {name: hidden(inner) for name, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return cast("_Value", list(map(hidden, value)))
    return value


@dataclass(eq=False, repr=False)
class Connection:
    """How to connect. Without a `repr` of its values, so that credentials stay out of logs.

    Attributes:
        ca_file: the authorities to trust, PEM; None for the system's.
        certificate_file: the client's own certificate, PEM, for mutual TLS.
        key_file: its private key, PEM.
        server_name: the name to expect in the server's certificate, if it is not the URL's host.
        make_token: gives the bearer token of a call, or None.
        headers: sent with every call.
        compression: of requests; servers may compress answers with the same.
        channels: gRPC connections to spread calls over.
        ssl_context: the whole of TLS, for HTTP; None for one from the files above.
        proxy: what connections go through; None for none.
        largest_answer: bytes of the largest answer to accept, after decompression; over gRPC 2 GiB at most.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    make_token: Callable[[], str | Awaitable[str]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    compression: Compression | None = None
    channels: int = 1
    ssl_context: SSLContext | None = None
    proxy: Proxy | None = None
    largest_answer: int = LARGEST_ANSWER

    def call_headers(self, more: Mapping[str, str]) -> dict[str, str]:
        """The headers of one call, its token among them.

        Raises:
            InvalidInput: the token, which may have been renewed, cannot be read or sent.
        """
        headers = {**self.headers, **more}
        if self.make_token is not None and "authorization" not in more:
            token = hidden(self.make_token())
            if inspect.iscoroutine(token):
                token.close()
                raise InvalidInput("The function that gives the token is asynchronous: use it with AsyncClient")
            headers["authorization"] = hidden(f"Bearer {checked_token(token)}")
        return headers

    async def awaited_headers(self, more: Mapping[str, str], deadline: Deadline) -> Mapping[str, str]:
        """`more` with the token, if it has to be awaited.

        Raises:
            InvalidInput: as `call_headers`.
            DeadlineExceeded: the token took too long.
        """
        if self.make_token is None or "authorization" in more:
            return more
        token = hidden(self.make_token())
        if inspect.isawaitable(token):
            try:
                token = hidden(await asyncio.wait_for(token, deadline.remaining()))
            except asyncio.TimeoutError as error:
                raise DeadlineExceeded(f"The token did not come within {deadline.timeout:g} s") from error
        return {**more, "authorization": hidden(f"Bearer {checked_token(token)}")}


def checked_token(token: object) -> str:
    """The token, checked to be valid in a header.

    Raises:
        InvalidInput: it is not.
    """
    if not isinstance(token, str) or not token or " " in token or not re.fullmatch(_HEADER_VALUE, token):
        # Not repeated here: messages end up in logs.
        raise InvalidInput("The token must be a string of printable ASCII characters without spaces")
    return token


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The caller's headers with their names in lower case, as both protocols take them.

    Raises:
        InvalidInput: a name or a value cannot be sent, or is set by the client itself.
    """
    if not isinstance(headers, Mapping):
        raise InvalidInput(f"headers must be a mapping of names and values, got a {type(headers).__name__}")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):
            raise InvalidInput(f"{name!r} is not the name of a header")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("grpc-"):
            raise InvalidInput(f"The header {name!r} is set by the client itself: remove it")
        if not isinstance(value, str) or not re.fullmatch(_HEADER_VALUE, value):
            raise InvalidInput(f"The value of the header {name!r} must be a string of printable ASCII characters")
        checked[name.lower()] = value
    return checked
