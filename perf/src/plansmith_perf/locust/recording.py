"""What one process of a load test has seen, handed on in parts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from pydantic import BaseModel, ConfigDict

from plansmith_perf.locust.histograms import Durations, DurationsPart
from plansmith_perf.results import Usage  # noqa: TC001 - pydantic reads the annotations

__all__ = ["SLOTS_PER_SECOND", "Recorder", "Report", "SecondPart"]

# How finely the answers are counted in time.
SLOTS_PER_SECOND = 10
_SLOT_NANOSECONDS = 1_000_000_000 // SLOTS_PER_SECOND
_SHOWN_CHARACTERS = 200


class SecondPart(BaseModel):
    """One second of the measurement, as far as one process saw it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answers: int
    errors: int
    latency: DurationsPart | None


class Report(BaseModel):
    """What happened since the last report; times count from the beginning of the measurement.

    Attributes:
        run: which test it belongs to.
        final: whether it is the last of this process.
        requests: due in the measurement and answered, or failed.
        warmup_requests: due before it.
        in_time: right answers that came during the measurement.
        errors: how often each was seen.
        latency: from the time when a request was due.
        service: from the time when it was sent.
        lag: how late it was sent.
        slots: answers in each tenth of a second.
        seconds: by second.
        usage: of this process, in the last report.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: float
    final: bool
    requests: int
    warmup_requests: int
    in_time: int
    errors: dict[str, int]
    latency: DurationsPart | None
    service: DurationsPart | None
    lag: DurationsPart | None
    slots: dict[int, int]
    seconds: dict[int, SecondPart]
    usage: Usage | None


class _Second:
    def __init__(self) -> None:
        self.answers = 0
        self.errors = 0
        self.latency = Durations()


class Recorder:
    """Records the requests of one process.

    Args:
        run: which test it is.
        begin: of the measurement, after the warm-up: nanoseconds of `time.monotonic_ns`.
        end: nanoseconds of the same clock; infinite where it is not known beforehand.
    """

    def __init__(self, run: float, begin: int, end: float = math.inf) -> None:
        self._run = run
        self._begin = begin
        self.end = end
        self._clear()

    def _clear(self) -> None:
        self._requests = self._warmup_requests = self._in_time = 0
        self._errors: Counter[str] = Counter()
        self._latency, self._service, self._lag = Durations(), Durations(), Durations()
        self._slots: Counter[int] = Counter()
        self._seconds: defaultdict[int, _Second] = defaultdict(_Second)

    def record(self, due: int, sent: int, done: int, failure: str) -> None:
        """Record a request.

        Args:
            due: when it should have been sent, nanoseconds of `time.monotonic_ns`.
            sent: when it was.
            done: when it was answered, or failed.
            failure: what was wrong; "" for a right answer.
        """
        counts = due >= self._begin
        in_time = self._begin <= done < self.end
        if in_time and not failure:
            # Those sent in the warm-up make up for those that are answered after the end.
            self._in_time += 1
            self._slots[(done - self._begin) // _SLOT_NANOSECONDS] += 1
        if in_time:
            second = self._seconds[(done - self._begin) // 1_000_000_000]
            second.answers += not failure
            second.errors += bool(failure)
            if not failure:
                second.latency.record(done - due)
        if not counts:
            self._warmup_requests += 1
            return
        self._requests += 1
        self._lag.record(sent - due)
        if failure:
            self._errors[" ".join(failure.split())[:_SHOWN_CHARACTERS]] += 1
        else:
            self._latency.record(done - due)
            self._service.record(done - sent)

    def record_unsent(self, number: int, reason: str) -> None:
        """Record requests that were due and never sent."""
        if number:
            self._requests += number
            self._errors[reason] += number

    def take(self, *, final: bool = False, usage: Usage | None = None) -> Report:
        """What happened since the last report."""
        report = Report(
            run=self._run,
            final=final,
            requests=self._requests,
            warmup_requests=self._warmup_requests,
            in_time=self._in_time,
            errors=dict(self._errors),
            latency=self._latency.part(),
            service=self._service.part(),
            lag=self._lag.part(),
            slots=dict(self._slots),
            seconds={
                number: SecondPart(answers=second.answers, errors=second.errors, latency=second.latency.part())
                for number, second in self._seconds.items()
            },
            usage=usage,
        )
        self._clear()
        return report
