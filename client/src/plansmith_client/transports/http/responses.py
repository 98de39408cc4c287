"""HTTP/1.1 responses read from bytes, wherever these come from: a socket that blocks or an event loop.

Messages are parsed by llhttp (`httptools`), the parser of Node.js; in a call of half a millisecond a parser in Python
takes a third of the time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["BrokenAnswerError", "InvalidAnswerError", "NoHttpError", "Response", "ResponseReader"]

_INFORMATIONAL = range(100, 200)
_SWITCHING_PROTOCOLS = 101
_WITHOUT_BODY = (204, 304)
# Names and values; servers send some hundred bytes.
_LARGEST_HEADERS = 64 * 1024
# Bytes that bring the response no further: half a header, interim responses, trailers.
_LARGEST_GAP = 512 * 1024
_DECOMPRESSED_AT_ONCE = 2**24
_GZIP = 16 + zlib.MAX_WBITS


class NoHttpError(Exception):
    """What listens there does not speak HTTP."""


class InvalidAnswerError(Exception):
    """The answer is HTTP, but not one that this client asked for or accepts."""


class BrokenAnswerError(Exception):
    """The connection ended in the middle of the answer."""


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

    @property
    def has_length(self) -> bool:
        """Whether the response says where its body ends."""
        return "content-length" in self.headers or "transfer-encoding" in self.headers


class ResponseReader:
    """Reads the response to one request: the first one that is not informational.

    Args:
        coding: the content coding that the request accepts; `identity` for none.
        largest: bytes of the largest body to accept, before and after decompression.

    Attributes:
        is_complete: whether all of the response has been read.
        has_begun: whether a byte of an answer has arrived.
    """

    __slots__ = (
        "_coding",
        "_failure",
        "_gap",
        "_has_headers",
        "_headers",
        "_headers_size",
        "_keeps_alive",
        "_largest",
        "_parser",
        "_parts",
        "_progressed",
        "_size",
        "_status",
        "_surplus",
        "has_begun",
        "is_complete",
    )

    def __init__(self, coding: str, largest: int) -> None:
        self._coding = coding
        self._largest = largest
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._status = self._size = self._headers_size = self._gap = 0
        self._failure: Exception | None = None
        self._has_headers = self._keeps_alive = self._surplus = self._progressed = False
        self.has_begun = self.is_complete = False

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can carry another request: the server keeps it open, and sent nothing more."""
        return self.is_complete and self._keeps_alive and not self._surplus

    def feed(self, data: bytes) -> None:
        """Take bytes in the order of their arrival; those after the end of the response are dropped.

        Raises:
            NoHttpError: they are not HTTP.
            InvalidAnswerError: the response is larger than allowed, or not one that was asked for.
        """
        if self.is_complete:
            self._surplus = True
            return
        self.has_begun = True
        self._progressed = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Only a response of 101 has this, which is refused below.
            pass
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                # It came while one of the methods below ran.
                raise error.__context__ from None
            # What follows the end of a response cannot make it invalid.
            if not self.is_complete and self._failure is None:
                raise NoHttpError(str(error)) from error
            self._surplus = True
        if self._failure is not None:
            raise self._failure
        self._gap = 0 if self._progressed else self._gap + len(data)
        if self._gap > _LARGEST_GAP:
            raise InvalidAnswerError(f"more than {_LARGEST_GAP} bytes of headers")

    @property
    def status(self) -> int:
        """The response's status; 0 until its headers have come."""
        return self._status

    def taken(self) -> bytes:
        """What has come of the body since the last call, as it came: for a body that is read while it arrives."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def end(self) -> None:
        """The connection has ended.

        Raises:
            ConnectionResetError: no answer has begun.
            BrokenAnswerError: the answer is incomplete.
        """
        if self.is_complete:
            return
        # Without a length the end of the connection is the end of the body.
        if not self._has_headers or "content-length" in self._headers or "transfer-encoding" in self._headers:
            raise BrokenAnswerError if self.has_begun else ConnectionResetError(0, "closed without an answer")
        self.is_complete = True

    def response(self) -> Iterator[Response | None]:
        """The complete response; None before it for each part of a compressed body, whose decompression takes time.

        Raises:
            InvalidAnswerError: the body is not of the content coding that was asked for, or too large.
        """
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        coding = self._headers.get("content-encoding", "").strip().lower().removeprefix("x-") or "identity"
        if body and coding != "identity":
            if coding != self._coding:
                raise InvalidAnswerError(f"its content coding is {coding!r}, which was not asked for")
            decompressed: list[bytes] = []
            for part in _decompressed(body, coding, self._largest):
                decompressed.append(part)
                yield None
            body = b"".join(decompressed)
        yield Response(self._status, self._headers, body)

    # What llhttp calls. An exception raised here would cost the parser's state: failures are raised by `feed`.

    def on_message_begin(self) -> None:
        """A message begins."""
        if self.is_complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """A header or a trailer."""
        # After the headers come trailers, which are not headers.
        if self.is_complete or self._has_headers:
            return
        key, text = name.decode("latin-1").lower(), (value or b"").decode("latin-1")
        self._headers_size += len(name) + len(text)
        if self._headers_size > _LARGEST_HEADERS:
            self._fail(f"more than {_LARGEST_HEADERS} bytes of headers")
        elif key in self._headers:
            self._headers[key] += f", {text}"
        else:
            self._headers[key] = text

    def on_headers_complete(self) -> None:
        """All headers of a message have come."""
        if self.is_complete:
            return
        status = self._parser.get_status_code()
        if status == _SWITCHING_PROTOCOLS:
            self._fail("the server switches to another protocol, which was not asked for")
        elif status in _INFORMATIONAL:
            self._headers.clear()
        else:
            self._status, self._has_headers, self._progressed = status, True, True
            self._check_framing()

    def on_body(self, part: bytes) -> None:
        """A part of the body."""
        if self.is_complete or self._failure is not None:
            return
        self._size += len(part)
        self._progressed = True
        if self._size > self._largest:
            self._parts.clear()
            self._fail(_too_large(self._largest))
        else:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        """A message ends."""
        # An informational response is followed by the one that is meant.
        if self._has_headers and not self.is_complete:
            self.is_complete = True
            # llhttp knows it only now.
            self._keeps_alive = self._parser.should_keep_alive()

    def _check_framing(self) -> None:
        if self._headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
            self._fail("its transfer coding is not chunked")
        length = self._headers.get("content-length", "0").strip()
        # llhttp has checked it already.
        if length.isdigit() and int(length) > self._largest and self._status not in _WITHOUT_BODY:
            self._fail(_too_large(self._largest))

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = InvalidAnswerError(reason)


def _too_large(largest: int) -> str:
    return f"it is larger than {largest} bytes, the largest answer that this client accepts"


def _decompressed(body: bytes, coding: str, largest: int) -> Iterator[bytes]:
    """The parts of a decompressed body: of every member of a gzip file, of deflate with or without zlib's header."""
    size, rest = 0, body
    try:
        while rest:
            decompressor = zlib.decompressobj(_window(rest, coding))
            while not decompressor.eof:
                part = decompressor.decompress(rest, min(_DECOMPRESSED_AT_ONCE, largest - size + 1))
                size += len(part)
                if size > largest:
                    raise InvalidAnswerError(_too_large(largest))
                rest = decompressor.unconsumed_tail
                if not part and not rest and not decompressor.eof:
                    raise InvalidAnswerError(f"its body ends in the middle of {coding}")
                yield part
            rest = decompressor.unused_data
            if rest and coding != "gzip":
                raise InvalidAnswerError(f"its body goes on after the end of {coding}")
    except zlib.error as error:
        raise InvalidAnswerError(f"its body is not {coding}: {error}") from error


def _window(data: bytes, coding: str) -> int:
    if coding == "gzip":
        return _GZIP
    # RFC 9110 means zlib by "deflate"; some servers send the bare stream. zlib's header is a multiple of 31.
    has_header = len(data) > 1 and data[0] & 15 == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
