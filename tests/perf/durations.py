"""The distribution of durations that a test makes up."""

from __future__ import annotations

from plansmith_perf.load.histograms import Durations


def distribution(nanoseconds, percentiles):
    durations = Durations()
    durations.add(nanoseconds)
    return durations.distribution(percentiles)
