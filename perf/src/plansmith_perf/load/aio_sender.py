"""Sends encoded requests over gRPC with `grpc.aio`; messages stay bytes on both sides."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2

from plansmith_client.protocol.operations import Infer
from plansmith_client.transports.grpc.wire import RPCS
from plansmith_perf.load.encoded_requests import RIGHT, judge, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from plansmith_client.transports.addresses import Address
    from plansmith_perf.load.encoded_requests import EncodedRequest

__all__ = ["AioSender"]

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
# What servers and proxies take on one connection unless told otherwise is at least this; gRPC would keep the others
# waiting here, where they are not in flight.
_REQUESTS_PER_CONNECTION = 100
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Two channels to one address would share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that is back is to be asked again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.primary_user_agent", "plansmith-bench"),
)
_OUT_OF_TIME = "Deadline Exceeded"
"""What gRPC says of a deadline that has passed here."""
_PREAMBLE = "last error: "


@dataclass
class _Connection:
    channel: grpc.aio.Channel
    call: Any
    in_flight: int = 0


class AioSender:
    """Unary calls on one connection for each hundred requests in flight.

    Args:
        address: of scheme `grpc` or `grpcs`; the latter trusts the authorities in the file that the environment
            variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names, else those that gRPC brings.
        timeout: seconds that a request may take; the server is told.
        tolerance: see `plansmith_perf.load.requests.check_answer`.
    """

    def __init__(self, address: Address, *, timeout: float, tolerance: float) -> None:
        self._address = address
        self._timeout = timeout
        self._tolerance = tolerance
        self._connections: list[_Connection] = []
        self._credentials: grpc.ChannelCredentials | None = None
        if address.scheme == "grpcs":
            roots = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
            self._credentials = grpc.ssl_channel_credentials(Path(roots).read_bytes() if roots else None)

    async def send(self, request: EncodedRequest) -> tuple[int, str]:
        """See `plansmith_perf.load.senders.Sender`."""
        connection = self._connection()
        connection.in_flight += 1
        try:
            body: bytes = await connection.call(request.body, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            return time.monotonic_ns(), _fault(error)
        finally:
            connection.in_flight -= 1
        arrived = time.monotonic_ns()
        if body == request.right:
            return arrived, RIGHT
        return arrived, judge(request, body, lambda: _decode(body), tolerance=self._tolerance)

    async def close(self) -> None:
        """End the connections."""
        for connection in self._connections:
            await connection.channel.close()
        self._connections.clear()

    def _connection(self) -> _Connection:
        for connection in self._connections:
            if connection.in_flight < _REQUESTS_PER_CONNECTION:
                return connection
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(self._address.target, options=_OPTIONS)
        else:
            channel = grpc.aio.secure_channel(self._address.target, self._credentials, options=_OPTIONS)
        # Without serializers a message is the bytes that it travels as.
        self._connections.append(_Connection(channel, channel.unary_unary(_METHOD)))
        return self._connections[-1]


def _fault(error: grpc.aio.AioRpcError) -> str:
    told = error.details() or ""
    # What comes before says no more than that nothing could be connected to.
    told = told.partition(_PREAMBLE)[2] or told
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and told == _OUT_OF_TIME:
        told = "no answer within the time that a request may take"
    return one_line(f"{error.code().name}: {told}")


def _decode(body: bytes) -> Mapping[str, NDArray[Any]]:
    answer: Mapping[str, NDArray[Any]] = RPCS[Infer].answer(service_pb2.ModelInferResponse.FromString(body))
    return answer
