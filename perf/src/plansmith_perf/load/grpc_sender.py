"""Sends encoded requests over gRPC with as little work as possible; see `plansmith_perf.load.http2`.

A unary call of gRPC is one HTTP/2 request whose body is the message after five bytes, and whose status comes in the
trailers: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

import grpc

from plansmith_client.protocol.operations import Infer
from plansmith_client.transports.grpc.wire import RPCS
from plansmith_perf.load.encoded_requests import RIGHT, judge, one_line
from plansmith_perf.load.http2 import Http2Connection, Http2Error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from plansmith_client.transports.addresses import Address
    from plansmith_perf.load.encoded_requests import EncodedRequest
    from plansmith_perf.load.http2 import Answer

__all__ = ["GrpcSender"]

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_PREFIX = struct.Struct(">BI")  # whether the message is compressed, its length
_STATUS_NAMES = {str(code.value[0]): code.name for code in grpc.StatusCode}
_OK = "0"
_MOST_DURATION = 99_999_999


class GrpcSender:
    """Unary calls on one connection, or on as many as the server's limit of requests on each makes it take.

    Args:
        address: of scheme `grpc` or `grpcs`; the latter trusts the authorities in the file that the environment
            variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names, else the system's.
        timeout: seconds that a request may take; the server is told.
        tolerance: see `plansmith_perf.load.requests.check_answer`.
    """

    def __init__(self, address: Address, *, timeout: float, tolerance: float) -> None:
        self._address = address
        self._timeout = timeout
        self._tolerance = tolerance
        self._connections: list[Http2Connection] = []
        self._connecting = asyncio.Lock()
        self._secure: ssl.SSLContext | None = None
        if address.scheme == "grpcs":
            self._secure = ssl.create_default_context(cafile=os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"))
            self._secure.set_alpn_protocols(["h2"])

    async def send(self, request: EncodedRequest) -> tuple[int, str]:
        """Send and check.

        Returns:
            When the answer had come, before it was looked at: nanoseconds of `time.monotonic_ns`; and "" for a right
            one, else what was wrong in one line.
        """
        try:
            answer = await self._ask(_PREFIX.pack(0, len(request.body)) + request.body)
        except TimeoutError:
            return time.monotonic_ns(), "DEADLINE_EXCEEDED: no answer within the time that a request may take"
        except OSError as error:
            return time.monotonic_ns(), one_line(f"UNAVAILABLE: {error}")
        if answer.trailers.get("grpc-status") != _OK:
            return answer.arrived, one_line(_fault(answer))
        if answer.body == request.right:
            return answer.arrived, RIGHT
        return answer.arrived, judge(request, answer.body, lambda: _decode(answer.body), tolerance=self._tolerance)

    async def close(self) -> None:
        """End the connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    async def _ask(self, message: bytes) -> Answer:
        connection = next((each for each in self._connections if each.has_room), None)
        if connection is not None:
            return await connection.ask(message)
        async with asyncio.timeout(self._timeout):
            return await (await self._connect()).ask(message)

    async def _connect(self) -> Http2Connection:
        async with self._connecting:
            # Others may have waited for the same connection, and filled it.
            self._connections = [each for each in self._connections if not each.ended]
            for connection in self._connections:
                if connection.has_room:
                    return connection
            transport, connection = await asyncio.get_running_loop().create_connection(
                lambda: Http2Connection(self._headers(), self._timeout),
                self._address.host,
                self._address.port,
                ssl=self._secure,
            )
            try:
                await connection.ready
            except BaseException:
                transport.close()
                raise
            if not connection.has_room:
                transport.close()
                raise Http2Error("the server takes no requests")
            self._connections.append(connection)
            return connection

    def _headers(self) -> list[tuple[str, str]]:
        return [
            (":method", "POST"),
            (":scheme", "https" if self._secure else "http"),
            (":path", _METHOD),
            (":authority", self._address.target),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "plansmith-bench"),
            ("grpc-timeout", _duration(self._timeout)),
        ]


def _duration(seconds: float) -> str:
    """In eight digits at most, as the protocol has it."""
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds}m" if milliseconds <= _MOST_DURATION else f"{min(_MOST_DURATION, round(seconds))}S"


def _fault(answer: Answer) -> str:
    status = answer.trailers.get("grpc-status", "")
    if status:
        return f"{_STATUS_NAMES.get(status, status)}: {unquote(answer.trailers.get('grpc-message', ''))}"
    code = answer.headers.get(":status", "nothing")
    return f"UNAVAILABLE: the answer is not gRPC, HTTP status {code}"


def _decode(body: bytes) -> Mapping[str, NDArray[Any]]:
    if len(body) < _PREFIX.size or _PREFIX.unpack_from(body) != (0, len(body) - _PREFIX.size):
        raise ValueError("the answer is not one message, uncompressed")
    answer: Mapping[str, NDArray[Any]] = RPCS[Infer].answer(body[_PREFIX.size :])
    return answer
