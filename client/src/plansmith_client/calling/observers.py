"""Who is told of each operation: tracing and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from plansmith_client.protocol.operations import Operation

__all__ = ["Observer"]


class Observer(Protocol):
    """Watches the operations of a client, retries included in each.

    `plansmith_client.telemetry.Tracing` and `plansmith_client.metrics.ClientMetrics` are two.
    """

    def observe(self, operation: Operation[Any]) -> AbstractContextManager[Mapping[str, str]]:
        """A context that is entered before the operation and left after it, with its error if it failed.

        Entering it gives headers to send with the operation.
        """
        ...
