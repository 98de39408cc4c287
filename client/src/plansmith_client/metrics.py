"""Prometheus: how long operations take as seen by the client, and how they end.

Needs the package prometheus-client (`pip install prometheus-client`).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import InvalidInput, MissingDependency
from plansmith_client.protocol.operations import ModelOperation

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram
except ImportError as error:  # pragma: no cover - a test installs the package without it
    raise MissingDependency(
        "ClientMetrics needs the package prometheus-client: pip install prometheus-client"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.protocol.operations import Operation

__all__ = ["ClientMetrics"]

# From a tenth of a millisecond to the client's default deadline.
_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


class ClientMetrics:
    """Two metrics: `plansmith_client_seconds`, a histogram, and `plansmith_client_in_flight`, a gauge.

    The histogram's labels are `operation` (`Infer`, `ReadModelMetadata`, ...), `model` and `outcome` (`ok`, or the
    name of the error). Retries and other servers are inside the time of their operation. One instance may serve any
    number of clients of a process.

    Args:
        registry: where to register; by default the global registry.

    Raises:
        InvalidInput: the registry has these metrics already.

    Example:
        ```python
        from plansmith_client.metrics import ClientMetrics
        from prometheus_client import CollectorRegistry

        with Client("localhost:8001", observers=[ClientMetrics(CollectorRegistry())]) as measured:
            measured.model("digits")(images)
        ```
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        try:
            self._seconds = Histogram(
                "plansmith_client_seconds",
                "Seconds that operations take, as the client sees them",
                ("operation", "model", "outcome"),
                registry=registry,
                buckets=_BUCKETS,
            )
            self._in_flight = Gauge(
                "plansmith_client_in_flight", "Operations in flight", ("operation", "model"), registry=registry
            )
        except ValueError as error:
            raise InvalidInput("The registry has the client's metrics already: use one ClientMetrics for it") from error

    @contextlib.contextmanager
    def observe(self, operation: Operation[Any]) -> Iterator[Mapping[str, str]]:
        """Measure the operation; no headers."""
        kind = type(operation).__name__
        model = operation.name if isinstance(operation, ModelOperation) else ""
        outcome = "ok"
        started = time.perf_counter()
        try:
            with self._in_flight.labels(kind, model).track_inprogress():
                yield {}
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self._seconds.labels(kind, model, outcome).observe(time.perf_counter() - started)
