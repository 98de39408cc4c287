"""How long a round of the finals lasts: until enough was answered to say anything of the SLO's percentile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.analysis import samples_needed

if TYPE_CHECKING:
    from plansmith_perf.slo import Slo
    from plansmith_perf.tuning.records import TrialRecord

__all__ = ["LONGEST_ROUND", "check_round_length", "round_seconds"]

# Seconds. Four finalists in five rounds are twenty measurements.
LONGEST_ROUND = 60.0
# The rate of a round is not exactly that of the search.
_MARGIN = 1.1
_LOWER = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0)


def round_seconds(slo: Slo, rate: float, *, least: float) -> float:
    """The length of a round in seconds.

    Args:
        slo: its percentile decides how many answers it takes.
        rate: answers per second that are expected.
        least: seconds; a round may last as long even where that is more than `LONGEST_ROUND`.
    """
    return max(least, min(_enough(slo.percentile, rate), LONGEST_ROUND))


def check_round_length(slo: Slo, in_use: TrialRecord, *, least: float) -> None:
    """Say before the search that its result could not be decided.

    Args:
        slo: to be kept.
        in_use: the configuration in use, which keeps the SLO; what is published must be faster.
        least: seconds of a measurement.

    Raises:
        LoadTestMisconfigured: even the longest round has too few answers for the percentile.
    """
    rate = _rate(in_use)
    longest = max(least, LONGEST_ROUND)
    seconds = _enough(slo.percentile, rate)
    if seconds <= longest:
        return
    lower = next((p for p in _LOWER if p < slo.percentile and _enough(p, rate) <= longest), None)
    other = f", or ask for a lower percentile, such as p{lower:g}={slo.text.partition('=')[2]}" if lower else ""
    raise LoadTestMisconfigured(
        f"p{slo.percentile:g} takes {samples_needed(slo.percentile):,} answers, and what is in use gives {rate:,.3g} a "
        f"second: a round of {longest:g} s is too short to decide anything; give --seconds {math.ceil(seconds)}{other}"
    )


def _enough(percentile: float, rate: float) -> float:
    return _MARGIN * samples_needed(percentile) / rate if rate else math.inf


def _rate(trial: TrialRecord) -> float:
    """Answers per second; where none came inside the measurement, what the latency of the one after it amounts to."""
    if trial.throughput or not trial.latency:
        return trial.throughput
    return trial.concurrency * 1e6 / trial.latency
