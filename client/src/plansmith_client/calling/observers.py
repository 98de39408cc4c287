"""What observers of operations implement: tracing and metrics do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager

    from plansmith_client.protocol.operations import Operation
    from plansmith_client.transports.addresses import Address

__all__ = ["Observer", "tell_of_attempt"]


class Observer(Protocol):
    """Watches the operations of a client; retries are part of an operation.

    An observer may have a method `attempt(operation, address)`, too: see `tell_of_attempt`.

    `plansmith_client.telemetry.Tracing` and `plansmith_client.metrics.ClientMetrics` are observers.
    """

    def observe(self, operation: Operation[Any]) -> AbstractContextManager[Mapping[str, str]]:
        """A context that is entered before the operation and left after it, with its error if it failed.

        Entering it returns headers to send with the operation, all but `authorization`: that is `token=` or `headers=`.
        """


def tell_of_attempt(observers: Iterable[Observer], operation: Operation[Any], address: Address) -> None:
    """Call the method `attempt` of the observers that have one, before an operation is sent to a server.

    It is called inside of `observe`, with the same operation: again for each retry, for a hedged request, and for each
    server of those that are all asked. The address has the server's `host` and `port`, or its `socket_path`.
    """
    for observer in observers:
        attempt = getattr(observer, "attempt", None)
        if attempt is not None:
            attempt(operation, address)
