"""When the requests of an open loop are due: on one schedule, fixed before the first is sent."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np

from plansmith_perf.load.profiles import Profile, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from plansmith_perf.results.documents import OpenLoop

__all__ = ["due_times", "schedule"]

_AT_ONCE = 1024


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
