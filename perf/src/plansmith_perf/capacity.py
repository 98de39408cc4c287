"""How many replicas a rate takes: a queueing model fitted to the measured curve of one.

A percentile of the latency is `base + wait * u / (1 - u)` where `u` is the share of the highest rate that is in use:
what a request takes alone, and a wait that grows as in a queue with random arrivals. The three numbers are fitted to
the open loops of a load test. How far the model is off is measured, too: each load is predicted from the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.latencies import latency_at
from plansmith_perf.results.documents import OpenLoop
from plansmith_perf.slo import not_kept_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.results.documents import LoadTestResult
    from plansmith_perf.slo import Slo

    _Numbers = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Capacity", "Curve", "capacity"]

# Three numbers are fitted, and each load is predicted from the others.
_LEAST_RATES = 4
# Highest rates that are tried: from just above what was measured to where it would be hardly used.
_HEADROOMS = 1 + np.geomspace(0.002, 10, 400)


@dataclass(frozen=True)
class Curve:
    """A percentile of one replica's latency by rate.

    Attributes:
        base: microseconds without any wait.
        wait: microseconds of wait at half of `saturation`.
        saturation: requests per second at which the queue would grow without end.
        measured: the highest rate that was measured and kept up with; nothing is said of higher ones.
        error: how far a measured load was off what the others predict, at most, as a share of the prediction.
    """

    base: float
    wait: float
    saturation: float
    measured: float
    error: float

    def latency(self, rate: float) -> float:
        """Microseconds at a rate below `saturation`."""
        used = rate / self.saturation
        return self.base + self.wait * used / (1 - used)

    def highest_rate(self, limit: float) -> float:
        """The highest measured rate whose latency, with the model's error added, is within a limit; 0 if none is."""
        spare = limit / (1 + self.error) - self.base
        if spare < 0:
            return 0.0
        return min(self.measured, self.saturation * spare / (spare + self.wait) if spare + self.wait else math.inf)


@dataclass(frozen=True)
class Capacity:
    """What a rate takes.

    Attributes:
        replicas: how many; None where one replica alone misses the objective at every rate.
        each: requests per second of each replica.
        latency: the percentile that the model predicts there, in microseconds.
        curve: the model.
    """

    replicas: int | None
    each: float
    latency: float
    curve: Curve


def capacity(result: LoadTestResult, rate: float, slo: Slo) -> Capacity:
    """How many replicas keep an objective at a rate that is spread evenly over them.

    Args:
        result: of one replica, open loops at four rates or more.
        rate: requests per second, of all together.
        slo: to be kept.

    Raises:
        LoadTestMisconfigured: too few rates were measured, or their percentile was not.
    """
    points: dict[float, list[float]] = {}
    for measured in result.measurements:
        load, found = measured.load, latency_at(measured.latency, slo.percentile) or 0.0
        if isinstance(load, OpenLoop) and found > 0 and slo.has_enough(measured) and not not_kept_up(measured):
            points.setdefault(load.rate, []).append(found)
    if len(points) < _LEAST_RATES:
        raise LoadTestMisconfigured(
            f"{len(points)} rates of the result have a p{slo.percentile:g} and were kept up with, and the model needs "
            f"{_LEAST_RATES}: measure one replica with `plansmith bench {result.model} --rate 100,200,400,600 "
            "--output RESULT.json`, with rates up to what it can take, each long enough for the percentile"
        )
    rates = np.array(sorted(points))
    latencies = np.array([np.median(points[each]) for each in rates])
    curve = fitted(rates, latencies)
    most = curve.highest_rate(slo.limit)
    if not most:
        return Capacity(None, 0.0, curve.base, curve)
    replicas = math.ceil(rate / most)
    return Capacity(replicas, rate / replicas, curve.latency(rate / replicas), curve)


def fitted(rates: Sequence[float] | _Numbers, latencies: Sequence[float] | _Numbers) -> Curve:
    """The curve that fits best, relative to each latency.

    Args:
        rates: at least four, ascending.
        latencies: microseconds at each.
    """
    rates, latencies = np.asarray(rates, float), np.asarray(latencies, float)
    base, wait, saturation = _fit(rates, latencies)
    errors = []
    for place in range(len(rates)):
        others = np.arange(len(rates)) != place
        # What lies above all others cannot be predicted from them where it is beyond their saturation.
        curve = Curve(*_fit(rates[others], latencies[others], above=rates[-1]), rates[-1], 0.0)
        errors.append(abs(latencies[place] / curve.latency(rates[place]) - 1))
    return Curve(base, wait, saturation, float(rates[-1]), float(max(errors)))


def _fit(rates: _Numbers, latencies: _Numbers, above: float = 0.0) -> tuple[float, float, float]:
    best = (math.inf, 0.0, 0.0, 0.0)
    for saturation in max(rates[-1], above) * _HEADROOMS:
        used = rates / saturation
        terms = np.stack([np.ones_like(used), used / (1 - used)], axis=1) / latencies[:, np.newaxis]
        (base, wait), missed = nnls(terms, np.ones(len(rates)))
        best = min(best, (float(missed), float(base), float(wait), float(saturation)))
    return best[1:]
