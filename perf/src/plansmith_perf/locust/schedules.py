"""When the requests of an open loop are due, without an end where the run has none."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_perf.locust.profiles import Profile

__all__ = ["schedule"]

_AT_ONCE = 1024


def schedule(rate: Profile, *, arrivals: Literal["poisson", "constant"], seed: int) -> Iterator[float]:
    """Seconds after the start at which each request is due, ascending.

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
