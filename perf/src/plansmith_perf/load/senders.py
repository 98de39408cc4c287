"""The sender for a server: over gRPC or over HTTP, as its URL says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from plansmith_client.protocol.operations import Infer
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.http.wire import EXCHANGES, Reply
from plansmith_perf.load.grpc_sender import GrpcSender
from plansmith_perf.load.http_sender import HttpSender

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from plansmith_perf.load.encoded_requests import EncodedRequest

__all__ = ["Sender", "open_sender"]


class Sender(Protocol):
    """Sends requests of one model to one server."""

    async def send(self, request: EncodedRequest) -> tuple[int, str]:
        """Send and check.

        Returns:
            When the answer had come, before it was looked at: nanoseconds of `time.monotonic_ns`; and "" for a right
            one, else what was wrong in one line.
        """
        ...

    async def close(self) -> None:
        """End the connections."""
        ...


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
        return GrpcSender(address, timeout=timeout, tolerance=tolerance)
    url = f"{address.scheme}://{address.target}{address.path}{path}"
    return HttpSender(url, _decode, timeout=timeout, tolerance=tolerance)


def _decode(headers: Mapping[str, str], body: bytes) -> Mapping[str, NDArray[Any]]:
    answer: Mapping[str, NDArray[Any]] = EXCHANGES[Infer].answer(Reply(headers, body))
    return answer
