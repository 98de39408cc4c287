"""Durations in HDR histograms: microseconds, three significant digits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from plansmith_perf.results import Distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Durations"]

# A microsecond and an hour.
_LOWEST, _HIGHEST = 1, 3_600_000_000
_DIGITS = 3


class Durations:
    """A histogram to which durations are added in parts. Mean and extremes are exact."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)
        self._count = 0
        self._total = 0.0
        self._minimum = math.inf
        self._maximum = -math.inf

    def add(self, nanoseconds: NDArray[np.int64]) -> None:
        """Add durations, of any number."""
        if not nanoseconds.size:
            return
        microseconds = np.clip(np.rint(nanoseconds / 1000), _LOWEST, _HIGHEST).astype(np.int64)
        for value, count in zip(*np.unique(microseconds, return_counts=True), strict=True):
            self._histogram.record_value(int(value), int(count))
        self._count += nanoseconds.size
        self._total += float(nanoseconds.sum() / 1000)
        self._minimum = min(self._minimum, float(nanoseconds.min() / 1000))
        self._maximum = max(self._maximum, float(nanoseconds.max() / 1000))

    def distribution(self, percentiles: Sequence[float]) -> Distribution | None:
        """The whole; None where nothing was added.

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
