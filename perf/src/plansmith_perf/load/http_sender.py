"""Sends encoded requests over HTTP/1.1 with as little work as possible.

The generator shares the processor with what it measures, and servers that batch do better the closer together requests
arrive. An HTTP library takes four times as long for a small request as writing its bytes and reading the answer's; and
it asks for compressed answers, which cost a server more than the inference of a small model. What is known here is
enough for a server of models: keep-alive, a body with its length or in chunks.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from plansmith_perf.load.encoded_requests import RIGHT, judge, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from plansmith_perf.load.encoded_requests import EncodedRequest

__all__ = ["Decode", "HttpSender"]

Decode = Callable[[Mapping[str, str], bytes], "Mapping[str, NDArray[Any]]"]
"""Headers, names in small letters, and body of an answer to arrays; raises what `judge` takes."""

_OK = 200
_BUFFER_BYTES = 2**20
_END_OF_HEADERS = b"\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpSender:
    """POST requests on as many connections as there are requests in flight.

    Args:
        url: "http://host:port/path", or https.
        decode: for an answer that is not byte for byte one that was found right.
        timeout: seconds that a request may take.
        tolerance: see `plansmith_perf.load.requests.check_answer`.
    """

    def __init__(self, url: str, decode: Decode, *, timeout: float, tolerance: float) -> None:
        parts = urlsplit(url)
        self._secure = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._authority = parts.netloc
        self._path = parts.path or "/"
        self._decode = decode
        self._timeout = timeout
        self._tolerance = tolerance
        self._idle: list[Connection] = []
        self._messages: dict[int, bytes] = {}

    async def send(self, request: EncodedRequest) -> tuple[int, str]:
        """See `plansmith_perf.load.grpc_sender.GrpcSender.send`."""
        try:
            async with asyncio.timeout(self._timeout):
                status, head, body = await self._exchange(self._message(request))
        except TimeoutError:
            return time.monotonic_ns(), "TIMEOUT: no answer within the time that a request may take"
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
            return time.monotonic_ns(), one_line(f"{type(error).__name__}: {error}")
        arrived = time.monotonic_ns()
        if status != _OK:
            return arrived, one_line(f"HTTP {status}: {body.decode(errors='replace')}")
        if body == request.right:
            return arrived, RIGHT
        return arrived, judge(request, body, lambda: self._decode(_headers(head), body), tolerance=self._tolerance)

    async def close(self) -> None:
        """End the connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    def _message(self, request: EncodedRequest) -> bytes:
        message = self._messages.get(id(request))
        if message is None:
            lines = [f"POST {self._path} HTTP/1.1", f"Host: {self._authority}"]
            lines += [f"{name}: {value}" for name, value in request.headers.items()]
            lines += [f"Content-Length: {len(request.body)}", "", ""]
            message = "\r\n".join(lines).encode("latin-1") + request.body
            self._messages[id(request)] = message
        return message

    async def _exchange(self, message: bytes) -> tuple[int, bytes, bytes]:
        reader, writer = self._kept() or await asyncio.open_connection(
            self._host, self._port, ssl=self._secure, limit=_BUFFER_BYTES
        )
        kept = False
        try:
            writer.write(message)
            await writer.drain()
            head = await reader.readuntil(_END_OF_HEADERS)
            small = head.lower()
            body = await _read_body(reader, small)
            kept = b"connection: close" not in small and not reader.at_eof()
        finally:
            # What was broken off in the middle of an answer would give its rest to the next request.
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return int(head.split(maxsplit=2)[1]), head, body

    def _kept(self) -> Connection | None:
        """A connection that the server has not closed since."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return None


async def _read_body(reader: asyncio.StreamReader, small: bytes) -> bytes:
    _, marked, rest = small.partition(b"\r\ncontent-length:")
    if marked:
        return await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    if b"\r\ntransfer-encoding: chunked" not in small:
        return await reader.read()
    parts = []
    while True:
        size = int((await reader.readline()).partition(b";")[0], 16)
        parts.append(await reader.readexactly(size))
        await reader.readline()
        if not size:
            return b"".join(parts)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
