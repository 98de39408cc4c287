"""When the requests of an open loop are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plansmith_perf.results import OpenLoop  # noqa: TC001 - named in the signature that readers look up

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["due_times"]


def due_times(load: OpenLoop, *, seconds: float, seed: int) -> NDArray[np.int64]:
    """Nanoseconds after the start at which each request is due, ascending, all below `seconds`.

    Constant arrivals are `1 / rate` apart. Poisson arrivals have independent, exponentially distributed gaps of that
    mean: bursts and lulls, as independent users make them.
    """
    if load.arrivals == "constant":
        due = np.arange(np.ceil(seconds * load.rate)) / load.rate
    else:
        rng = np.random.default_rng(seed)
        # Given their number, Poisson arrivals are uniform and independent.
        due = np.sort(rng.uniform(0.0, seconds, size=int(rng.poisson(seconds * load.rate))))
    nanoseconds: NDArray[np.int64] = (due[due < seconds] * 1e9).astype(np.int64)
    return nanoseconds
