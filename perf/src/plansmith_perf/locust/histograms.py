"""Durations in HDR histograms that travel from worker to master: microseconds, three significant digits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from plansmith_perf.load.analysis import HIGHEST, LOWEST, new_histogram
from plansmith_perf.results import Distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Durations", "DurationsPart"]


class DurationsPart(BaseModel):
    """What was recorded between two reports, in microseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    total: float
    minimum: float
    maximum: float
    histogram: str


class Durations:
    """A histogram that others can be added to. Mean and extremes are exact."""

    def __init__(self) -> None:
        self._histogram = new_histogram()
        self._count = 0
        self._total = 0.0
        self._minimum = math.inf
        self._maximum = -math.inf

    def record(self, nanoseconds: int) -> None:
        """Record one."""
        microseconds = nanoseconds / 1000
        self._histogram.record_value(min(max(round(microseconds), LOWEST), HIGHEST))
        self._count += 1
        self._total += microseconds
        self._minimum = min(self._minimum, microseconds)
        self._maximum = max(self._maximum, microseconds)

    def part(self) -> DurationsPart | None:
        """All of it, to be sent; None where nothing was recorded."""
        if not self._count:
            return None
        return DurationsPart(
            count=self._count,
            total=self._total,
            minimum=self._minimum,
            maximum=self._maximum,
            histogram=self._histogram.encode().decode("ascii"),
        )

    def add(self, part: DurationsPart | None) -> None:
        """Add what was recorded elsewhere."""
        if part is None:
            return
        self._histogram.decode_and_add(part.histogram)
        self._count += part.count
        self._total += part.total
        self._minimum = min(self._minimum, part.minimum)
        self._maximum = max(self._maximum, part.maximum)

    def distribution(self, percentiles: Sequence[float]) -> Distribution | None:
        """The whole; None where nothing was recorded.

        Args:
            percentiles: in per cent.
        """
        if not self._count:
            return None
        return Distribution(
            count=self._count,
            mean=self._total / self._count,
            minimum=self._minimum,
            maximum=self._maximum,
            percentiles={f"{p:g}": float(self._histogram.get_value_at_percentile(p)) for p in percentiles},
            histogram=self._histogram.encode().decode("ascii"),
        )
