"""From the records of the workers to a measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from plansmith_perf.results import Distribution, Stability, TimelineSecond

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "HIGHEST",
    "LOWEST",
    "Records",
    "answers_per_second",
    "distribution",
    "latency_growth",
    "new_histogram",
    "samples_needed",
    "shares_per_second",
    "stability",
    "timeline",
]

# A microsecond and an hour.
LOWEST, HIGHEST = 1, 3_600_000_000
_DIGITS = 3
_PARTS = 5
_STABLE_SPREAD = 0.1
# Standard deviations of a count of independent arrivals: less than that is chance and no drift.
_CHANCE = 3.0
_BEYOND = 10


@dataclass(frozen=True)
class Records:
    """What happened to each request: arrays of one length, nanoseconds after the start of the measurement.

    Attributes:
        due: when each should have been sent.
        sent: when it was.
        done: when it was answered.
        right: whether the answer was right.
    """

    due: NDArray[np.int64]
    sent: NDArray[np.int64]
    done: NDArray[np.int64]
    right: NDArray[np.bool_]

    def select(self, which: NDArray[np.bool_]) -> Records:
        """Some of them."""
        return Records(self.due[which], self.sent[which], self.done[which], self.right[which])


def answers_per_second(records: Records, seconds: float) -> float:
    """Right answers that came during a measurement.

    Those sent during the warm-up and answered after it make up for those that are answered after the end.
    """
    in_time = records.right & (records.done >= 0) & (records.done < seconds * 1e9)
    return float(in_time.sum() / seconds) if seconds else 0.0


def shares_per_second(records: Records, seconds: float) -> float:
    """Right answers, each counted by the share of its time that lies inside the measurement.

    Where a request takes a good part of that, as a whole batch in process does, it would be a matter of luck which of
    them end inside. Only for closed loops: where a queue grows, it counts what is never answered in time.
    """
    end = seconds * 1e9
    right = records.select(records.right)
    duration = np.maximum(right.done - right.sent, 1)
    overlap = np.clip(right.done, 0, end) - np.clip(right.sent, 0, end)
    return float((overlap / duration).sum() / seconds)


def new_histogram() -> HdrHistogram:
    """An empty histogram of microseconds, from LOWEST to HIGHEST, three significant digits."""
    return HdrHistogram(LOWEST, HIGHEST, _DIGITS)


def distribution(nanoseconds: NDArray[np.int64], percentiles: Sequence[float]) -> Distribution | None:
    """The distribution of durations; None where there are none."""
    if not nanoseconds.size:
        return None
    histogram = new_histogram()
    microseconds = np.clip(np.rint(nanoseconds / 1000), LOWEST, HIGHEST).astype(np.int64)
    for value, count in zip(*np.unique(microseconds, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    return Distribution(
        count=int(nanoseconds.size),
        mean=float(nanoseconds.mean() / 1000),
        minimum=float(nanoseconds.min() / 1000),
        maximum=float(nanoseconds.max() / 1000),
        percentiles={f"{percent:g}": float(histogram.get_value_at_percentile(percent)) for percent in percentiles},
        histogram=histogram.encode().decode("ascii"),
    )


def samples_needed(percentile: float) -> int:
    """So many answers that ten of them lie beyond the percentile; with fewer it is the luck of a few requests."""
    return math.ceil(round(_BEYOND / (1 - percentile / 100), 6))


def stability(records: Records, seconds: float) -> Stability | None:
    """Whether the fifths of a measurement agree within 10 %, or as far as chance allows; None without answers."""
    edges = np.linspace(0, seconds * 1e9, _PARTS + 1)
    counts, _ = np.histogram(records.done[records.right], edges)
    if not counts.sum():
        return None
    rates = counts / (seconds / _PARTS)
    spread = float(np.abs(rates - rates.mean()).max() / rates.mean())
    allowed = max(_STABLE_SPREAD, _CHANCE / math.sqrt(counts.mean()))
    return Stability(stable=spread <= allowed, throughput=rates.tolist(), spread=spread)


def latency_growth(records: Records, seconds: float) -> float | None:
    """How fast the latency of what was due in a measurement grows: seconds a second, from its first third to its last.

    Where requests come in faster than they are answered it is the share that is too much, whatever the measurement's
    length: at 104 requests a second a server of 100 a second falls behind by 0.04 s each second.

    Returns:
        0 where the middle third does not lie between the others, because that is no growth but chance; None where a
        third has no answers.
    """
    third = seconds * 1e9 / 3
    means = []
    for number in range(3):
        part = records.right & (records.due >= number * third) & (records.due < (number + 1) * third)
        if not part.any():
            return None
        means.append(float((records.done[part] - records.due[part]).mean()))
    first, middle, last = means
    return (last - first) / (2 * third) if first < middle < last else 0.0


def timeline(records: Records, seconds: float) -> list[TimelineSecond]:
    """What was answered in each second, also of what was sent in the warm-up: see `answers_per_second`."""
    rows = []
    records = records.select(records.done < seconds * 1e9)
    which = records.done // 1_000_000_000
    for second in range(math.ceil(seconds)):
        part = records.select(which == second)
        latency = (part.done - part.due)[part.right] / 1000
        median, p99 = np.percentile(latency, [50, 99]).tolist() if latency.size else (None, None)
        rows.append(
            TimelineSecond(
                second=second,
                answers=int(part.right.sum()),
                errors=int((~part.right).sum()),
                median_latency=median,
                p99_latency=p99,
            )
        )
    return rows
