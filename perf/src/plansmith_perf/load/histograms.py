"""Durations in HDR histograms: microseconds, three significant digits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from plansmith_perf.results.documents import Distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Durations"]

# A microsecond and an hour.
_LOWEST, _HIGHEST = 1, 3_600_000_000
_DIGITS = 3
_BITS = 11


class Durations:
    """A histogram to which durations are added in parts. Mean and extremes are exact.

    It is kept as the values of its buckets that are not empty: to add to it takes a process that also sends requests no
    time that they would show.

    Attributes:
        maximum: in microseconds; minus infinity where nothing was added.
    """

    def __init__(self) -> None:
        self._values = np.zeros(0, dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)
        self._total = 0.0
        self._minimum = math.inf
        self.maximum = -math.inf

    def add(self, nanoseconds: NDArray[np.int64]) -> None:
        """Add durations, of any number."""
        if not nanoseconds.size:
            return
        microseconds = np.clip(np.rint(nanoseconds / 1000), _LOWEST, _HIGHEST).astype(np.int64)
        shift = _shift(microseconds)
        values, counts = np.unique((microseconds >> shift) << shift, return_counts=True)
        self._values, where = np.unique(np.concatenate((self._values, values)), return_inverse=True)
        self._counts = np.bincount(where, np.concatenate((self._counts, counts))).astype(np.int64)
        self._total += float(nanoseconds.sum() / 1000)
        self._minimum = min(self._minimum, float(nanoseconds.min() / 1000))
        self.maximum = max(self.maximum, float(nanoseconds.max() / 1000))

    def percentiles(self, asked: Sequence[float]) -> list[float]:
        """Percentiles, in microseconds: the upper end of a bucket, as HDR histograms have it; none if it is empty.

        Args:
            asked: in per cent.
        """
        if not self._values.size:
            return []
        seen = np.cumsum(self._counts)
        ranks = np.maximum((np.asarray(asked) / 100 * seen[-1] + 0.5).astype(np.int64), 1)
        found = self._values[np.searchsorted(seen, ranks)]
        return [float(value) for value in found + (1 << _shift(found)) - 1]

    def distribution(self, percentiles: Sequence[float]) -> Distribution | None:
        """The whole; None where nothing was added.

        Args:
            percentiles: in per cent.
        """
        if not self._values.size:
            return None
        histogram = HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)
        for value, count in zip(self._values.tolist(), self._counts.tolist(), strict=True):
            histogram.record_value(value, count)
        count = int(self._counts.sum())
        return Distribution(
            count=count,
            mean=self._total / count,
            minimum=self._minimum,
            maximum=self.maximum,
            percentiles={f"{p:g}": found for p, found in zip(percentiles, self.percentiles(percentiles), strict=True)},
            histogram=histogram.encode().decode("ascii"),
        )


def _shift(microseconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """By how many bits the bucket of a value is wide: HDR histograms of three digits keep the first 11."""
    return np.maximum(np.frexp(microseconds)[1].astype(np.int64) - _BITS, 0)
