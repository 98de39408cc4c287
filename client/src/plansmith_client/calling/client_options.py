"""The options of a client as one value, the same for all of its faces: blocking and asynchronous, gRPC and HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_client.calling.breaker import BreakerPolicy
from plansmith_client.errors import InvalidInput
from plansmith_client.inputs.validation import check_flag
from plansmith_client.shared_memory.policy import SharedMemoryPolicy
from plansmith_client.transports.deadlines import LONGEST_WAIT, Deadline, seconds_from

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from ssl import SSLContext

    from plansmith_client.calling.observers import Observer
    from plansmith_client.calling.retries import RetryPolicy
    from plansmith_client.calling.servers import Balance
    from plansmith_client.transports import Transports
    from plansmith_client.transports.connections import Compression

__all__ = ["ClientOptions"]


@dataclass(kw_only=True, eq=False, repr=False)
class ClientOptions:
    """What `Client` and `AsyncClient` take besides the URL; their docstrings give meanings and defaults.

    Without a `repr` of their values, so that credentials stay out of logs.

    Raises:
        InvalidInput: an option is not valid. Options of the connection are checked by `connection_from`.
    """

    timeout: float
    token: str | Callable[[], str | Awaitable[str]] | None
    headers: Mapping[str, str] | None
    ca_file: str | Path | None
    certificate_file: str | Path | None
    key_file: str | Path | None
    server_name: str | None
    ssl_context: SSLContext | None
    proxy: str | None
    token_over_plaintext: bool
    compression: Compression | None
    channels: int
    largest_answer: int
    balance: Balance
    resolve: bool
    retries: RetryPolicy | int
    breaker: BreakerPolicy | None
    hedge_after: float | None
    metadata_max_age: float
    cast: bool
    shared_memory: SharedMemoryPolicy | bool
    observers: Sequence[Observer]
    transport: Transports | None

    def __post_init__(self) -> None:
        Deadline(self.timeout)
        check_flag("resolve", self.resolve)
        check_flag("cast", self.cast)
        check_flag("token_over_plaintext", self.token_over_plaintext)
        if not isinstance(self.balance, str) or self.balance not in ("round_robin", "least_outstanding"):
            raise InvalidInput(f"balance must be 'round_robin' or 'least_outstanding', got {self.balance!r}")
        self.metadata_max_age = _seconds("metadata_max_age", self.metadata_max_age)
        if self.hedge_after is not None:
            seconds = _seconds("hedge_after", self.hedge_after)
            self.hedge_after = seconds if seconds <= LONGEST_WAIT else None
        if not isinstance(self.shared_memory, (bool, SharedMemoryPolicy)):
            raise InvalidInput(f"shared_memory must be True, False or a SharedMemoryPolicy, got {self.shared_memory!r}")
        if self.breaker is not None and not isinstance(self.breaker, BreakerPolicy):
            raise InvalidInput(f"breaker must be None or a BreakerPolicy, got {self.breaker!r}")
        if not isinstance(self.observers, (list, tuple)) or not all(hasattr(one, "observe") for one in self.observers):
            raise InvalidInput(f"observers must be a list of objects with a method observe, got {self.observers!r}")
        if self.transport is not None and not hasattr(self.transport, "open_async_transport"):
            raise InvalidInput(
                f"transport must be None or a plansmith_client.testing.FakeServer, got {self.transport!r}"
            )


def _seconds(name: str, given: object) -> float:
    seconds = seconds_from(given)
    if not seconds >= 0:
        raise InvalidInput(f"{name} must be a number of seconds from 0, got {given!r}")
    return seconds
