"""The highest throughput of a server inside an SLO, as a search over the number of requests in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_perf.results.documents import ClosedLoop, Measurement

if TYPE_CHECKING:
    from collections.abc import Generator

    from plansmith_perf.slo import Slo

__all__ = ["Climb", "climb"]

# More in flight that do not bring this much only bring latency.
_GROWTH = 1.03
_HOPELESS = 0.9


@dataclass(frozen=True)
class Climb:
    """What was found.

    Attributes:
        best: the measurement with the highest throughput inside the SLO; None if no measurement kept it.
        lowest: the measurement with the fewest requests in flight.
        hopeless: whether it was given up because it could not reach the throughput to beat.
    """

    best: Measurement | None
    lowest: Measurement
    hopeless: bool = False


def climb(slo: Slo, *, start: int, most: int, to_beat: float = 0.0) -> Generator[ClosedLoop, Measurement, Climb]:
    """Search for the concurrency with the highest throughput inside an SLO: yields loads, is sent their measurements.

    With something to beat, twice `start` in flight come first: throughput only grows with the load until the server is
    busy, so what is slower than 90 % of the best even then cannot reach it with the SLO kept.

    Then the concurrency is doubled from `start` while the SLO is kept, until the throughput has not grown twice in a
    row, or halved until the SLO is kept; in the end one measurement halves the gap between the last that kept it and
    the first that did not.

    Args:
        slo: to be kept.
        start: requests in flight to begin with.
        most: never more in flight.
        to_beat: requests per second.

    Returns:
        What was found.
    """
    rungs = _Rungs(slo, most)
    if to_beat:
        probe = min(2 * start, most)
        rungs.measured[probe] = yield ClosedLoop(concurrency=probe)
        if rungs.measured[probe].throughput < _HOPELESS * to_beat:
            return Climb(rungs.best(), rungs.lowest(), hopeless=True)
    concurrency: int | None = min(start, most)
    while concurrency is not None:
        if concurrency not in rungs.measured:
            rungs.measured[concurrency] = yield ClosedLoop(concurrency=concurrency)
        concurrency = rungs.next_after(concurrency)
    between = rungs.gap()
    if between is not None:
        rungs.measured[between] = yield ClosedLoop(concurrency=between)
    return Climb(rungs.best(), rungs.lowest())


class _Rungs:
    """What was measured so far, by concurrency."""

    def __init__(self, slo: Slo, most: int) -> None:
        self._slo = slo
        self._most = most
        self.measured: dict[int, Measurement] = {}

    def kept(self, concurrency: int) -> bool:
        """Whether it was measured and the SLO was kept."""
        return concurrency in self.measured and self._slo.is_met(self.measured[concurrency])

    def best(self) -> Measurement | None:
        """The highest throughput inside the SLO."""
        kept = [found for number, found in self.measured.items() if self.kept(number)]
        return max(kept, key=lambda found: found.throughput, default=None)

    def lowest(self) -> Measurement:
        """The fewest in flight."""
        return self.measured[min(self.measured)]

    def next_after(self, concurrency: int) -> int | None:
        """The next concurrency to look at; None at the end of the way."""
        half, double = concurrency // 2, 2 * concurrency
        if not self.kept(concurrency):
            return None if concurrency == 1 or self.kept(half) else half
        if concurrency >= self._most or (double in self.measured and not self.kept(double)):
            return None
        # One doubling without growth proves nothing: a batcher may gain only from the next one on.
        return None if self._is_flat(concurrency) and self._is_flat(half) else min(double, self._most)

    def _is_flat(self, concurrency: int) -> bool:
        """Whether it brought no more throughput than half as many in flight."""
        half = concurrency // 2
        if not self.kept(concurrency) or not self.kept(half):
            return False
        return self.measured[concurrency].throughput < _GROWTH * self.measured[half].throughput

    def gap(self) -> int | None:
        """The middle between the last that kept the SLO and the first above it that did not."""
        kept = [number for number in self.measured if self.kept(number)]
        missed = [number for number in self.measured if not self.kept(number) and number > max(kept, default=0)]
        if not kept or not missed or min(missed) - max(kept) < 2:  # noqa: PLR2004 - nothing is between
            return None
        return (max(kept) + min(missed)) // 2
