"""What observers of operations implement: tracing and metrics do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from plansmith_client.protocol.operations import Operation

__all__ = ["Observer"]


class Observer(Protocol):
    """Watches the operations of a client; retries are part of an operation.

    `plansmith_client.telemetry.Tracing` and `plansmith_client.metrics.ClientMetrics` are observers.
    """

    def observe(self, operation: Operation[Any]) -> AbstractContextManager[Mapping[str, str]]:
        """A context that is entered before the operation and left after it, with its error if it failed.

        Entering it returns headers to send with the operation.
        """
        ...
