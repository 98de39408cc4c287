"""One HTTP/2 connection that asks unary questions, with as little work for each as possible.

The generator shares the processor with what it measures, and an HTTP/2 library made for every use takes longer for a
small request than a small model takes to answer it. `grpc.aio`, given bytes and giving bytes, sent 6,636 requests/s to
a small model with 32 in flight on two cores, this module 9,288 (nine rounds in turn on a quiet machine, median of the
rounds' ratios 0.69). That difference is why it exists. What is done here for each request is two frames out, three in;
header blocks that repeat are not encoded or decoded again, and requests made in one turn of the event loop leave in one
write. Header compression is hpack's, the rare frames are hyperframe's.
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from plansmith_perf.load.header_blocks import BlockDecoder, RepeatedBlock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Answer", "Http2Connection", "Http2Error"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER = struct.Struct(">HBBBI")  # length in two parts, type, flags, stream
_DATA, _HEADERS = DataFrame.type, HeadersFrame.type
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 2**16 - 1
_FRAME_BYTES = 2**14  # the most that a peer may send in a frame unless told otherwise
_LAST_STREAM = 2**31 - 1
_CANCEL = 8
_PRIORITY_BYTES = 5
_MOST_HEADER_BYTES = 2**16


class Http2Error(ConnectionError):
    """The other side ended a request or the connection, or does not speak HTTP/2; the text says which."""


class Answer(NamedTuple):
    """What came back.

    Attributes:
        headers: names in small letters, `:status` among them.
        trailers: the same as `headers` where nothing else came.
        arrived: when its end had come, nanoseconds of `time.monotonic_ns`.
    """

    headers: Mapping[str, str]
    body: bytes
    trailers: Mapping[str, str]
    arrived: int


@dataclass(slots=True, eq=False)
class _Stream:
    answered: asyncio.Future[Answer]
    deadline: float
    window: int
    unsent: memoryview
    headers: Mapping[str, str] = field(default_factory=dict)
    body: list[bytes] = field(default_factory=list)


class _BegunBlock(NamedTuple):
    number: int
    flags: int
    block: bytes


class Http2Connection(asyncio.Protocol):
    """Asks the same kind of question again and again; for `asyncio.loop.create_connection`."""

    def __init__(self, headers: Sequence[tuple[str, str]], timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Set once the other side has told its settings; fails with Http2Error where it does not speak HTTP/2."""
        self._request_block = RepeatedBlock(headers)
        self._decoder = BlockDecoder()
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._incoming = b""
        self._begun_block: _BegunBlock | None = None
        self._streams: dict[int, _Stream] = {}
        self._waiting: dict[int, _Stream] = {}
        self._next_number = 1
        self._most_streams = _LAST_STREAM
        self._window = self._stream_window = _DEFAULT_WINDOW
        self._frame_bytes = _FRAME_BYTES
        self._unacknowledged = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False

    @property
    def has_room(self) -> bool:
        """Whether another request may be sent now."""
        return not self._ending and len(self._streams) < self._most_streams and self._next_number < _LAST_STREAM

    @property
    def ended(self) -> bool:
        """Whether no request will ever be sent again, and no answer is waited for."""
        return not self._streams and (self._ending or self._next_number >= _LAST_STREAM)

    def ask(self, body: bytes) -> asyncio.Future[Answer]:
        """Send a request with a body of at least a byte; only where there is room.

        Returns:
            A future that fails with TimeoutError or Http2Error.
        """
        number = self._next_number
        self._next_number += 2
        answered = self._loop.create_future()
        deadline = self._loop.time() + self._timeout
        stream = self._streams[number] = _Stream(answered, deadline, self._stream_window, memoryview(body))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._give_up_late)
        block = self._request_block.encode()
        self._write(_FRAME_HEADER.pack(len(block) >> 8, len(block) & 0xFF, _HEADERS, _END_HEADERS, number) + block)
        size = len(body)
        if size <= _FRAME_BYTES and size <= self._window and size <= stream.window and not self._waiting:
            self._window -= size
            self._write(_FRAME_HEADER.pack(size >> 8, size & 0xFF, _DATA, _END_STREAM, number) + body)
        else:
            self._waiting[number] = stream
            self._send_waiting()
        return answered

    def close(self) -> None:
        """End the connection; requests that wait for an answer fail."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        settings = {
            SettingsFrame.ENABLE_PUSH: 0,
            SettingsFrame.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW,
            SettingsFrame.MAX_FRAME_SIZE: _FRAME_BYTES,
        }
        self._write(_PREFACE + SettingsFrame(settings=settings).serialize())
        self._widen(_LARGEST_WINDOW - _DEFAULT_WINDOW)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._fail(f"the connection was lost: {exc}" if exc else "the server closed the connection")

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        try:
            self._incoming = self._frames(self._incoming + data)
        except (HPACKError, HyperframeError, Http2Error) as error:
            self._fail(str(error) or type(error).__name__)
            self.close()

    def _frames(self, data: bytes) -> bytes:
        """Take the whole frames; returns the rest."""
        position, end = 0, len(data)
        while end - position >= _FRAME_HEADER.size:
            high, low, kind, flags, number = _FRAME_HEADER.unpack_from(data, position)
            size = high << 8 | low
            if size > _FRAME_BYTES:
                raise Http2Error("what answers does not speak HTTP/2")
            start = position + _FRAME_HEADER.size
            if start + size > end:
                break
            position = start + size
            self._frame(kind, flags, number & _LAST_STREAM, data[start:position])
        return data[position:]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._begun_block is not None and kind != ContinuationFrame.type:
            raise Http2Error("the server sent headers without their end")
        if kind == _DATA:
            self._unacknowledged += len(payload)
            if self._unacknowledged > _LARGEST_WINDOW // 2:
                self._widen(self._unacknowledged)
                self._unacknowledged = 0
            stream = self._streams.get(number)
            if stream is not None:
                stream.body.append(_without_padding(payload) if flags & _PADDED else payload)
                if flags & _END_STREAM:
                    self._finish(number, stream, {})
        elif kind == _HEADERS:
            block = _without_padding(payload) if flags & _PADDED else payload
            block = block[_PRIORITY_BYTES:] if flags & _PRIORITY else block
            if flags & _END_HEADERS:
                self._headers(number, flags, block)
            else:
                self._begun_block = _BegunBlock(number, flags, block)
        else:
            header = _FRAME_HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, number)
            frame, _ = Frame.parse_frame_header(memoryview(header))
            frame.parse_body(memoryview(payload))
            self._rare_frame(frame)

    def _rare_frame(self, frame: Frame) -> None:
        match frame:
            case SettingsFrame() if "ACK" not in frame.flags:
                self._obey(frame.settings)
                self._write(SettingsFrame(flags=["ACK"]).serialize())
            case PingFrame() if "ACK" not in frame.flags:
                self._write(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
            case WindowUpdateFrame():
                self._grow_window(frame.stream_id, frame.window_increment)
            case RstStreamFrame():
                self._refuse(frame.stream_id, f"the server ended the request, HTTP/2 error {frame.error_code}")
            case GoAwayFrame():
                self._ending = True
                for number in [number for number in self._streams if number > frame.last_stream_id]:
                    self._refuse(number, f"the server goes away, HTTP/2 error {frame.error_code}")
                self._close_if_ended()
            case ContinuationFrame():
                self._continue_block(frame)
            case PushPromiseFrame():
                raise Http2Error("the server pushes, which it was told not to")

    def _continue_block(self, frame: ContinuationFrame) -> None:
        begun = self._begun_block
        if begun is None or begun.number != frame.stream_id or len(begun.block) > _MOST_HEADER_BYTES:
            raise Http2Error("the server sent headers in a wrong order, or without an end")
        self._begun_block = begun._replace(block=begun.block + frame.data)
        if "END_HEADERS" in frame.flags:
            self._begun_block = None
            self._headers(begun.number, begun.flags, begun.block + frame.data)

    def _grow_window(self, number: int, size: int) -> None:
        if number in self._streams:
            self._streams[number].window += size
        elif not number:
            self._window += size
        self._send_waiting()

    def _obey(self, settings: Mapping[int, int]) -> None:
        if SettingsFrame.HEADER_TABLE_SIZE in settings:
            self._request_block.limit_table(settings[SettingsFrame.HEADER_TABLE_SIZE])
        if SettingsFrame.INITIAL_WINDOW_SIZE in settings:
            change = settings[SettingsFrame.INITIAL_WINDOW_SIZE] - self._stream_window
            self._stream_window += change
            for stream in self._streams.values():
                stream.window += change
        self._frame_bytes = settings.get(SettingsFrame.MAX_FRAME_SIZE, self._frame_bytes)
        self._most_streams = settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS, self._most_streams)
        self._send_waiting()
        if not self.ready.done():
            self.ready.set_result(None)

    def _headers(self, number: int, flags: int, block: bytes) -> None:
        # Of requests that were given up too: the table must follow.
        headers = self._decoder.decode(block)
        stream = self._streams.get(number)
        if stream is None:
            return
        if flags & _END_STREAM:
            stream.headers = stream.headers or headers
            self._finish(number, stream, headers)
        else:
            stream.headers = headers

    def _finish(self, number: int, stream: _Stream, trailers: Mapping[str, str]) -> None:
        del self._streams[number]
        if self._waiting.pop(number, None) is not None:
            self._write(RstStreamFrame(number, error_code=_CANCEL).serialize())
        if not stream.answered.done():
            stream.answered.set_result(Answer(stream.headers, b"".join(stream.body), trailers, time.monotonic_ns()))
        self._close_if_ended()

    def _send_waiting(self) -> None:
        for number, stream in list(self._waiting.items()):
            while (size := min(len(stream.unsent), self._window, stream.window, self._frame_bytes)) > 0:
                part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
                self._window -= size
                stream.window -= size
                flags = 0 if stream.unsent else _END_STREAM
                self._write(_FRAME_HEADER.pack(size >> 8, size & 0xFF, _DATA, flags, number) + part)
            if not stream.unsent:
                del self._waiting[number]

    def _widen(self, size: int) -> None:
        self._write(WindowUpdateFrame(0, window_increment=size).serialize())

    def _write(self, data: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _give_up_late(self) -> None:
        self._timer = None
        now = self._loop.time()
        for number, stream in list(self._streams.items()):
            if stream.deadline > now:
                self._timer = self._loop.call_at(stream.deadline, self._give_up_late)
                return
            self._drop(number, TimeoutError())
            self._write(RstStreamFrame(number, error_code=_CANCEL).serialize())
        self._close_if_ended()

    def _close_if_ended(self) -> None:
        # A server that goes away waits for it.
        if self._ending and not self._streams:
            self.close()

    def _refuse(self, number: int, reason: str) -> None:
        if number in self._streams:
            self._drop(number, Http2Error(reason))

    def _drop(self, number: int, error: Exception) -> None:
        self._waiting.pop(number, None)
        answered = self._streams.pop(number).answered
        if not answered.done():
            answered.set_exception(error)

    def _fail(self, reason: str) -> None:
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(Http2Error(reason))
        for number in list(self._streams):
            self._refuse(number, reason)


def _without_padding(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise Http2Error("the server sent more padding than frame")
    return payload[1 : len(payload) - payload[0]]
