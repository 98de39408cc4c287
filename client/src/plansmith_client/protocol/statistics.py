"""The counters of each model in a server (Triton's statistics extension)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from plansmith_client.protocol.metadata import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BatchStatistics", "Duration", "ModelStatistics", "statistics_from_document"]

_NANOSECONDS = 1e9
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and for how long in all.

    Example:
        ```python
        client.model("digits").statistics()[0].queue.mean  # seconds
        ```
    """

    count: int
    seconds: float

    @property
    def mean(self) -> float:
        """Mean seconds; 0 if the count is 0."""
        return self.seconds / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """The executions of one batch size.

    Example:
        ```python
        {batch.size: batch.compute_infer.mean for batch in client.model("digits").statistics()[0].batches}
        ```
    """

    size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """The counters of one version of a model since it was loaded.

    Triton counts a request after its answer has left: read immediately, the counters may lack the last one.

    Attributes:
        name: the model's name.
        version: the version.
        last_inference: the time of the last inference, UTC; None if there was none.
        inferences: rows: a request with a batch of 8 counts 8.
        executions: runs of the model: fewer than inferences where batches were made.
        success: requests that succeeded, and their time in the server.
        fail: those that did not.
        queue: waiting for an instance.
        compute_input: preparing the inputs.
        compute_infer: the model itself.
        compute_output: reading the outputs.
        cache_hit: answers from the response cache, and the time to look them up.
        cache_miss: lookups in the response cache that found nothing, storing included.
        batches: the executions of each batch size.

    Example:
        ```python
        for statistics in client.statistics():
            print(statistics.name, statistics.version, statistics.success.count, statistics.queue.mean)
        ```
    """

    name: str
    version: str
    last_inference: datetime | None
    inferences: int
    executions: int
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration
    batches: tuple[BatchStatistics, ...]


def statistics_from_document(document: Mapping[str, Any]) -> tuple[ModelStatistics, ...]:
    """Read the answer of the statistics extension, as JSON or as gRPC's message in the same shape."""
    return tuple(_model(entry) for entry in document.get("model_stats") or ())


def _model(entry: Mapping[str, Any]) -> ModelStatistics:
    stats = entry.get("inference_stats") or {}
    last = int(entry.get("last_inference") or 0)
    kinds = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    return ModelStatistics(
        read_text(entry["name"]),
        read_text(entry.get("version") or ""),
        _EPOCH + timedelta(milliseconds=last) if last else None,
        int(entry.get("inference_count") or 0),
        int(entry.get("execution_count") or 0),
        **{kind: _duration(stats.get(kind)) for kind in kinds},
        batches=tuple(_batch(batch) for batch in entry.get("batch_stats") or ()),
    )


def _batch(entry: Mapping[str, Any]) -> BatchStatistics:
    kinds = ("compute_input", "compute_infer", "compute_output")
    return BatchStatistics(int(entry["batch_size"]), *(_duration(entry.get(kind)) for kind in kinds))


def _duration(entry: Mapping[str, Any] | None) -> Duration:
    stated = entry or {}
    return Duration(int(stated.get("count") or 0), int(stated.get("ns") or 0) / _NANOSECONDS)
