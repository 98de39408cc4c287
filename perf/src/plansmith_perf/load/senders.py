"""Sends encoded requests, over gRPC or HTTP, and checks what comes back.

The bytes of a request are made once, before the load; a reply that is byte for byte one that was found right is not
decoded again. So the generator spends its time on sending.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from tritonclient.grpc import service_pb2

from plansmith_client.addresses import Address
from plansmith_client.errors import ClientError
from plansmith_client.operations import Infer
from plansmith_client.transports.grpc_transport import CHANNEL_OPTIONS
from plansmith_client.transports.grpc_wire import RPCS
from plansmith_client.transports.http_wire import EXCHANGES, Reply
from plansmith_perf.errors import PerfError
from plansmith_perf.load.http_sender import HttpSender
from plansmith_perf.requests import check_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["EncodedRequest", "Sender", "open_sender"]

RIGHT = ""
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_SHOWN_CHARACTERS = 200


@dataclass
class EncodedRequest:
    """A request as it travels.

    Attributes:
        body: what is sent.
        headers: of HTTP.
        expected: outputs by name.
        right: a reply that was compared with `expected` and found right.
    """

    body: bytes
    headers: Mapping[str, str]
    expected: Mapping[str, NDArray[Any]]
    right: bytes = field(default=b"", repr=False)


class Sender(Protocol):
    """Sends requests of one model to one server."""

    async def send(self, request: EncodedRequest) -> str:
        """Send and check; returns "" for a right answer, else what was wrong in one line."""
        ...

    async def close(self) -> None:
        """End the connections."""
        ...


class GrpcSender:
    """Unary calls on one channel, without gRPC's own (de)serialisation."""

    def __init__(self, address: Address, timeout: float, tolerance: float) -> None:
        if address.scheme == "grpcs":
            self._channel = grpc.aio.secure_channel(address.target, grpc.ssl_channel_credentials(), CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address.target, CHANNEL_OPTIONS)
        self._call = self._channel.unary_unary(_METHOD)
        self._timeout = timeout
        self._tolerance = tolerance

    async def send(self, request: EncodedRequest) -> str:
        """See Sender."""
        try:
            reply: bytes = await self._call(request.body, timeout=self._timeout)
        except grpc.RpcError as error:
            return _one_line(f"{error.code().name}: {error.details()}")
        if reply == request.right:
            return RIGHT
        try:
            answer = RPCS[Infer].answer(service_pb2.ModelInferResponse.FromString(reply))
            check_answer(answer, request.expected, tolerance=self._tolerance)
        except (PerfError, ClientError, ValueError) as error:
            return _one_line(f"WRONG ANSWER: {error}")
        request.right = reply
        return RIGHT

    async def close(self) -> None:
        """See Sender."""
        await self._channel.close()


def open_sender(url: str, path: str, *, timeout: float, tolerance: float) -> Sender:
    """The sender for a server; call it in a running event loop.

    Args:
        url: as for `plansmith_client.Client`.
        path: of the inference endpoint below the server's URL; HTTP only.
        timeout: seconds that a request may take.
        tolerance: see `check_answer`.
    """
    address = Address.parse(url)
    if address.scheme in ("grpc", "grpcs"):
        return GrpcSender(address, timeout, tolerance)
    url = f"{address.scheme}://{address.target}{address.path}{path}"
    return HttpSender(url, _decode, timeout=timeout, tolerance=tolerance)


def _decode(headers: Mapping[str, str], body: bytes) -> Mapping[str, NDArray[Any]]:
    answer: Mapping[str, NDArray[Any]] = EXCHANGES[Infer].answer(Reply(headers, body))
    return answer


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS]
