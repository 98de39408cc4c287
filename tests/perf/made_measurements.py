"""Measurements that a test makes up."""

from __future__ import annotations

from plansmith_perf.load.histograms import Durations
from plansmith_perf.results.documents import Measurement, Usage


def distribution(nanoseconds, percentiles):
    durations = Durations()
    durations.add(nanoseconds)
    return durations.distribution(percentiles)


def made_up(load, latency, **known):
    """One of a second, without errors and of nothing but that latency where a test does not say otherwise."""
    return Measurement.model_validate(
        {
            **dict.fromkeys(("warmup_seconds", "warmup_requests", "errors", "error_rate", "rows_per_second"), 0),
            **dict.fromkeys(("dispatch_lag", "stability", "server_side", "server_usage"), None),
            "load": load,
            "seconds": 1,
            "complete": True,
            "latency": latency,
            "service": latency,
            "error_messages": {},
            "timeline": [],
            "notes": [],
            "client_usage": Usage(cpu_percent=0, memory=0, processes=1),
        }
        | known
    )
