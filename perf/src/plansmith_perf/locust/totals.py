"""From the reports of all processes of a load test to its measurement."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plansmith_perf.load.analysis import Records, samples_needed, stability
from plansmith_perf.locust.histograms import Durations
from plansmith_perf.locust.recording import SLOTS_PER_SECOND
from plansmith_perf.results import ClosedLoop, Measurement, OpenLoop, ServerSide, Stability, TimelineSecond, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.locust.recording import Report, SecondPart

__all__ = ["Circumstances", "Totals"]

_MESSAGES_KEPT = 20
_BUSY_PERCENT = 90.0
_LATE_SHARE = 0.1
_LATE_MICROSECONDS = 1000.0


@dataclass(frozen=True)
class Circumstances:
    """What the reports do not tell.

    Attributes:
        load: what was asked for.
        is_steady: whether the load was the same from beginning to end.
        seconds: length of the measurement.
        warmup_seconds: load before it.
        complete: whether it came to its end.
        batch_size: rows a request.
        percentiles: to report, in per cent.
        server_side: the server's own statistics.
        server_usage: of its processes.
        notes: what else is to be known.
    """

    load: ClosedLoop | OpenLoop
    is_steady: bool
    seconds: float
    warmup_seconds: float
    complete: bool
    batch_size: int
    percentiles: Sequence[float]
    server_side: ServerSide | None
    server_usage: Usage | None
    notes: Sequence[str]


class Totals:
    """The sum of all reports."""

    def __init__(self) -> None:
        self._requests = self._warmup_requests = self._in_time = 0
        self._errors: Counter[str] = Counter()
        self._latency, self._service, self._lag = Durations(), Durations(), Durations()
        self._slots: Counter[int] = Counter()
        self._seconds: defaultdict[int, list[SecondPart]] = defaultdict(list)
        self._usages: list[Usage] = []

    def add(self, report: Report) -> None:
        """Add a report."""
        self._requests += report.requests
        self._warmup_requests += report.warmup_requests
        self._in_time += report.in_time
        self._errors.update(report.errors)
        self._latency.add(report.latency)
        self._service.add(report.service)
        self._lag.add(report.lag)
        self._slots.update(report.slots)
        for number, part in report.seconds.items():
            self._seconds[number].append(part)
        if report.usage is not None:
            self._usages.append(report.usage)

    def measurement(self, circumstances: Circumstances) -> Measurement:
        """All of it, measured in these circumstances."""
        percentiles, seconds = circumstances.percentiles, circumstances.seconds
        errors = self._errors.total()
        throughput = self._in_time / seconds if seconds > 0 else 0.0
        steady = self._stability(seconds) if circumstances.is_steady else None
        is_open = isinstance(circumstances.load, OpenLoop)
        return Measurement(
            load=circumstances.load,
            seconds=seconds,
            warmup_seconds=circumstances.warmup_seconds,
            warmup_requests=self._warmup_requests,
            complete=circumstances.complete,
            requests=self._requests,
            errors=errors,
            error_rate=errors / max(1, self._requests),
            error_messages=dict(self._errors.most_common(_MESSAGES_KEPT)),
            throughput=throughput,
            rows_per_second=throughput * circumstances.batch_size,
            latency=self._latency.distribution(percentiles),
            service=self._service.distribution(percentiles),
            dispatch_lag=self._lag.distribution(percentiles) if is_open else None,
            stability=steady,
            timeline=self._timeline(seconds),
            server_side=circumstances.server_side,
            server_usage=circumstances.server_usage,
            client_usage=Usage(
                cpu_percent=sum(usage.cpu_percent for usage in self._usages),
                memory=sum(usage.memory for usage in self._usages),
                processes=len(self._usages),
            ),
            notes=[*circumstances.notes, *self._notes(circumstances, steady)],
        )

    def _stability(self, seconds: float) -> Stability | None:
        middles = [(slot + 0.5) / SLOTS_PER_SECOND * 1e9 for slot in self._slots]
        done = np.repeat(np.asarray(middles), list(self._slots.values())).astype(np.int64)
        if not done.size or seconds <= 0:
            return None
        return stability(Records(done, done, done, np.ones(done.size, dtype=np.bool_)), seconds)

    def _timeline(self, seconds: float) -> list[TimelineSecond]:
        rows = []
        for number in range(math.ceil(seconds)):
            parts = self._seconds.get(number, [])
            merged = Durations()
            for part in parts:
                merged.add(part.latency)
            latency = merged.distribution((50.0, 99.0))
            rows.append(
                TimelineSecond(
                    second=number,
                    answers=sum(part.answers for part in parts),
                    errors=sum(part.errors for part in parts),
                    median_latency=latency.percentiles["50"] if latency else None,
                    p99_latency=latency.percentiles["99"] if latency else None,
                )
            )
        return rows

    def _notes(self, circumstances: Circumstances, steady: Stability | None) -> list[str]:
        notes = []
        right = self._requests - self._errors.total()
        short = next(itertools.dropwhile(lambda p: right >= samples_needed(p), circumstances.percentiles), None)
        if short is not None:
            notes.append(
                f"too short for p{short:g}: it takes {samples_needed(short):,} answers, there were {right:,}; "
                "run for longer"
            )
        if steady is not None and not steady.stable:
            notes.append(
                "not stable: the throughput of its parts differs by more than 10 % and more than chance explains"
            )
        busiest = max((usage.cpu_percent for usage in self._usages), default=0.0)
        if busiest > _BUSY_PERCENT:
            notes.append(
                f"the client is the bottleneck: one of its processes used {busiest:.0f} % of a core; give it more "
                "with --processes, or a machine of its own; plansmith bench asks for less"
            )
        elif isinstance(circumstances.load, OpenLoop):
            lag, service = self._lag.distribution((99.0,)), self._service.distribution((50.0,))
            usual = service.percentiles["50"] if service is not None else 0.0
            if lag is not None and lag.percentiles["99"] > max(_LATE_MICROSECONDS, _LATE_SHARE * usual):
                notes.append(
                    "one request in a hundred was sent well after it was due: all users were busy, or other programs "
                    "wanted the processor; if the former, give it more with --users"
                )
        return notes
