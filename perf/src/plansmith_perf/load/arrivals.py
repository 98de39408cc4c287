"""How a load changes with time, and when the requests of an open loop are due: on one schedule, fixed before it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from plansmith_perf.results.documents import OpenLoop

__all__ = ["Profile", "Segment", "due_times", "schedule"]

_AT_ONCE = 1024


@dataclass(frozen=True)
class Segment:
    """From `begin` to `end`, in seconds, the level goes from `first` to `last` along a line."""

    begin: float
    end: float
    first: float
    last: float

    @property
    def area(self) -> float:
        """The level summed up over time: how many requests, where it is a rate."""
        return (self.first + self.last) / 2 * (self.end - self.begin)


@dataclass(frozen=True)
class Profile:
    """Segments without gaps, from 0 on; the last one's end is infinite for a load without an end."""

    segments: tuple[Segment, ...]

    def level(self, moment: float) -> float:
        """The level at a time, in seconds from the beginning; that of the end after it."""
        for segment in self.segments:
            if moment < segment.end:
                if math.isinf(segment.end):
                    return segment.first
                share = (moment - segment.begin) / (segment.end - segment.begin)
                return segment.first + share * (segment.last - segment.first)
        return self.segments[-1].last

    def moments(self, expected: NDArray[np.float64]) -> NDArray[np.float64]:
        """When a given number of requests is expected to have come, where the level is a rate.

        Args:
            expected: numbers of requests from 0 on, ascending.

        Returns:
            Seconds, of the same shape; infinite for more requests than come before the end.
        """
        found = np.full(expected.shape, np.inf)
        before = 0.0
        for segment in self.segments:
            inside = (expected >= before) & (expected < before + segment.area)
            surplus = expected[inside] - before
            slope = 0.0 if math.isinf(segment.end) else (segment.last - segment.first) / (segment.end - segment.begin)
            # The root of a parabola, in the form that also holds for a slope or a first level of 0.
            root = segment.first + np.sqrt(segment.first**2 + 2 * slope * surplus)
            found[inside] = segment.begin + np.divide(2 * surplus, root, out=np.zeros_like(surplus), where=root > 0)
            before += segment.area
        return found


def due_times(load: OpenLoop, *, seconds: float, seed: int) -> NDArray[np.int64]:
    """Nanoseconds after the start at which each request is due, ascending, all below `seconds`.

    Constant arrivals are `1 / rate` apart. Poisson arrivals have independent, exponentially distributed gaps of that
    mean: bursts and lulls, as independent users make them.
    """
    if load.arrivals == "recorded":
        raise ValueError("recorded arrivals have no schedule but their log")
    steady = Profile((Segment(0.0, seconds, load.rate, load.rate),))
    due = np.fromiter(schedule(steady, arrivals=load.arrivals, seed=seed), dtype=np.float64)
    nanoseconds: NDArray[np.int64] = (due * 1e9).astype(np.int64)
    return nanoseconds


def schedule(rate: Profile, *, arrivals: Literal["poisson", "constant"], seed: int) -> Iterator[float]:
    """Seconds after the start at which each request is due, ascending; without an end where the profile has none.

    The arrivals of a steady stream of one request per second, evenly spaced or a Poisson process, are moved to the
    times at which as many are expected at the rate of the profile: exact for any rate.

    Args:
        rate: requests per second.
        arrivals: how they are spaced.
        seed: of Poisson arrivals. Every worker makes the same schedule from it, and takes its own share.
    """
    rng = np.random.default_rng(seed)
    last = 0.0
    for block in itertools.count():
        if arrivals == "constant":
            expected = np.arange(block * _AT_ONCE, (block + 1) * _AT_ONCE, dtype=np.float64)
        else:
            expected = last + np.cumsum(rng.exponential(size=_AT_ONCE))
            last = float(expected[-1])
        due = rate.moments(expected)
        yield from due[np.isfinite(due)].tolist()
        if not np.isfinite(due[-1]):
            return
