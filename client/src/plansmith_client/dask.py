"""Scoring a Dask data frame: the extra `dask`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plansmith_client.bulk import BulkScorer

__all__ = ["score"]


def score(frame: Any, scorer: BulkScorer) -> Any:
    """A Dask data frame with the model's outputs as further columns; nothing runs until it is computed.

    Each worker process has one connection, and holds one partition for each of its threads. Dask runs the partitions of
    a lost worker again.

    Args:
        frame: a `dask.dataframe.DataFrame`.
        scorer: what to ask, and how. The server is asked at once for the outputs' types.

    Returns:
        A `dask.dataframe.DataFrame` of as many rows and partitions.

    Example:
        ```python
        scored = plansmith_client.dask.score(frame, BulkScorer("triton:8001", "prices", columns={"x": ["area", "age"]}))
        ```
    """
    return frame.map_partitions(scorer.with_outputs, meta=scorer.with_outputs(frame._meta))  # noqa: SLF001 - how Dask's own extensions learn the columns
