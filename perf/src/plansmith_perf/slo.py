"""Service level objectives: a percentile of the latency and its limit, and the highest rate that keeps it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.load.latencies import latency_at
from plansmith_perf.results.documents import ClosedLoop, Measurement, OpenLoop, SloOutcome
from plansmith_perf.results.formatting import as_rate

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Slo", "highest_rate", "not_kept_up"]

_FORM = re.compile(r"p(?P<percentile>\d+(\.\d+)?)=(?P<limit>\d+(\.\d+)?)(?P<unit>us|ms|s)")
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_ERRORS_ALLOWED = 0.001
# Less than this share of what was sent came back in time: the queue grows, and no limit would hold for long.
_KEEPING_UP = 0.95
# The latency grows by more than this each second: the same, before the queue is long.
_GROWTH_ALLOWED = 0.01
_PRECISION = 1.05
_MOST_STEPS = 24
# Requests per second, and for a model that is slow alone the share of what it then answers.
_LOWEST_RATE = 1.0
_LOWEST_SHARE = 1 / 16
_CONFIRMATIONS = 5
_STEP_DOWN = 0.9


@dataclass(frozen=True)
class Slo:
    """A limit of a percentile.

    Attributes:
        text: as it was written, such as "p99=50ms".
        percentile: in per cent.
        limit: microseconds.
    """

    text: str
    percentile: float
    limit: float

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read "p99=50ms"; the units are us, ms and s.

        Raises:
            LoadTestMisconfigured: it is not of this form.
        """
        found = _FORM.fullmatch(text)
        if found is None or not 0 < float(found["percentile"]) < 100 or not float(found["limit"]):  # noqa: PLR2004
            raise LoadTestMisconfigured(f"the SLO must look like p99=50ms, with the unit us, ms or s, got {text!r}")
        return cls(text, float(found["percentile"]), float(found["limit"]) * _MICROSECONDS[found["unit"]])

    def has_enough(self, measured: Measurement) -> bool:
        """Whether enough was answered to say anything of the percentile; see `samples_needed`."""
        return measured.requests - measured.errors >= samples_needed(self.percentile)

    def is_met(self, measured: Measurement) -> bool:
        """Whether the latency kept the limit, with at most 0.1 % errors and without a queue that grows."""
        return not self.why_missed(measured)

    def why_missed(self, measured: Measurement) -> str:
        """What a measurement lacks to keep the limit; "" where it is kept."""
        if lost := not_kept_up(measured):
            return lost
        found = latency_at(measured.latency, self.percentile)
        if found is None:
            return f"the load generator did not report p{self.percentile:g}"
        return f"p{self.percentile:g} is {found / 1000:,.3f} ms" if found > self.limit else ""


def not_kept_up(measured: Measurement) -> str:
    """Why a measurement says nothing of a load that is served, whatever its latency; "" where it does."""
    if measured.latency is None:
        return "no request was answered correctly"
    if not measured.complete:
        return "the measurement was interrupted"
    if measured.error_rate > _ERRORS_ALLOWED:
        return f"{measured.error_rate:.2%} of the requests failed"
    return _overload(measured)


def _overload(measured: Measurement) -> str:
    """How it shows that more was asked than answered; "" where it does not.

    A closed loop has no queue that grows: what is in flight at its end are the last requests of its users.
    """
    if isinstance(measured.load, ClosedLoop):
        return ""
    in_time = measured.throughput * measured.seconds
    # One request may be on its way at the end that was not at the beginning.
    if in_time < _KEEPING_UP * measured.requests - 1:
        return f"{in_time:,.0f} of {measured.requests:,} requests were answered when time was over: a queue grew"
    growth = measured.latency_growth
    if growth is not None and growth > _GROWTH_ALLOWED:
        return f"the latency grew by {growth * 1000:,.0f} ms each second: a queue grew"
    return ""


def highest_rate(
    slo: Slo, arrivals: Literal["poisson", "constant"]
) -> Generator[ClosedLoop | OpenLoop, Measurement, SloOutcome]:
    """Search for the highest rate that keeps an SLO: yields each load to measure, and is sent its measurement.

    One request at a time comes first: where that misses the SLO, no rate meets it. Then the rate is doubled until it
    fails, the bracket is halved until it is within 5 %, and what was found is measured once more. A rate that is not
    confirmed is lowered by 10 % and measured again, five times at most.

    Returns:
        What was found.

    Raises:
        LoadTestMisconfigured: the measurements are too short to say anything of the percentile.
    """
    alone = yield ClosedLoop(concurrency=1)
    if not slo.is_met(alone):
        return SloOutcome(slo=slo.text, met=False, rate=None)
    if not slo.has_enough(alone):
        raise _too_short(slo, alone, "one request at a time")
    least = min(_LOWEST_RATE, alone.throughput * _LOWEST_SHARE)
    low, high, rate, lowest = 0.0, math.inf, max(least, alone.throughput / 2), alone
    for _ in range(_MOST_STEPS):
        measured = yield OpenLoop(rate=rate, arrivals=arrivals)
        if slo.is_met(measured):
            low, lowest = rate, measured
        else:
            high = rate
        if low and high / low <= _PRECISION:
            break
        if not low and rate <= least:
            return SloOutcome(slo=slo.text, met=False, rate=None)
        rate = 2 * low if math.isinf(high) else math.sqrt(low * high)
        if not low:
            rate = max(least, high / 2)
    if not slo.has_enough(lowest):
        raise _too_short(slo, lowest, f"the highest rate that keeps it, {as_rate(low)}/s,")
    return (yield from _confirmed(slo, arrivals, low, least))


def _confirmed(
    slo: Slo, arrivals: Literal["poisson", "constant"], rate: float, least: float
) -> Generator[ClosedLoop | OpenLoop, Measurement, SloOutcome]:
    for _ in range(_CONFIRMATIONS):
        if rate >= least and slo.is_met((yield OpenLoop(rate=rate, arrivals=arrivals))):
            return SloOutcome(slo=slo.text, met=True, rate=rate)
        rate *= _STEP_DOWN
    return SloOutcome(slo=slo.text, met=False, rate=None)


def _too_short(slo: Slo, measured: Measurement, what: str) -> LoadTestMisconfigured:
    answers = measured.requests - measured.errors
    seconds = math.ceil(1.1 * measured.seconds * samples_needed(slo.percentile) / max(1, answers))
    return LoadTestMisconfigured(
        f"{measured.seconds:g} s are too short for {slo.text}: p{slo.percentile:g} takes "
        f"{samples_needed(slo.percentile):,} answers, and {what} got {answers:,}; measure each load for longer, "
        f"--seconds {seconds}, or ask for a lower percentile"
    )
