"""The sum of what happened to the requests of a load: added in parts, while it is on or after it, and not kept."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_perf.load.encoded_requests import WRONG_ANSWER
from plansmith_perf.load.histograms import Durations
from plansmith_perf.load.recording import keep_outcome
from plansmith_perf.results.documents import Stability, TimelineSecond

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_perf.load.analysis import Records

__all__ = ["Tally"]

# How finely answers are counted in time, in nanoseconds.
_SLOT = 20_000_000
_PARTS = 5
_STABLE_SPREAD = 0.1
# Standard deviations of a count of independent arrivals: less than that is chance, not drift.
_CHANCE = 3.0


@dataclass
class _Second:
    answers: int = 0
    errors: int = 0
    latency: Durations = field(default_factory=Durations)


class Tally:
    """Counts, durations, and what was answered when; times count from the beginning of the measurement.

    Attributes:
        requests: due in the measurement.
        warmup_requests: due before it.
        in_time: right answers that came during the measurement. Those sent in the warm-up make up for those that are
            answered after the end.
        failures: how often each was seen, of the requests that were due in the measurement.
        latency: of right answers, from the time when a request was due.
        service: of right answers, from the time when it was sent.
        lag: how late each request was sent.
    """

    def __init__(self) -> None:
        self.requests = self.warmup_requests = self.in_time = 0
        self.failures: Counter[str] = Counter()
        self.latency, self.service, self.lag = Durations(), Durations(), Durations()
        self._slots = np.zeros(0, dtype=np.int64)
        self._due_slots, self._waited = np.zeros(0), np.zeros(0)
        self._seconds: defaultdict[int, _Second] = defaultdict(_Second)

    def add(self, records: Records, outcomes: Sequence[str], *, end: float = math.inf) -> None:
        """Add what happened to some requests.

        Args:
            records: of the requests, those of the warm-up before 0.
            outcomes: of each: "", or what went wrong.
            end: of the measurement, in nanoseconds; infinite where it is still on.
        """
        self.warmup_requests += int((records.due < 0).sum())
        inside = (records.due >= 0) & (records.due < end)
        for outcome, is_inside in zip(outcomes, inside.tolist(), strict=True):
            if outcome and is_inside:
                self.failures[keep_outcome(outcome, self.failures)] += 1
        due = records.select(inside)
        self.requests += due.due.size
        self.lag.add(due.sent - due.due)
        answered = due.select(due.right)
        self.latency.add(answered.done - answered.due)
        self.service.add(answered.done - answered.sent)
        slots = answered.due // _SLOT
        self._due_slots = _sum(self._due_slots, np.bincount(slots))
        self._waited = _sum(self._waited, np.bincount(slots, weights=(answered.done - answered.due) / 1e9))
        self._add_times(records.select((records.done >= 0) & (records.done < end)))

    def add_lost(self, outcomes: Mapping[str, int]) -> None:
        """Add requests that were due in the measurement and of which nothing else is known than their outcome."""
        self.requests += sum(outcomes.values())
        self.failures.update(outcomes)

    def per_second(self, seconds: float) -> float:
        """Right answers that came in time, in each second of a measurement."""
        return self.in_time / seconds if seconds else 0.0

    @property
    def errors(self) -> int:
        """Requests that failed or were answered wrongly."""
        return self.failures.total()

    @property
    def wrong_answers(self) -> int:
        """Of the errors: answered, but not with what it must be."""
        return sum(count for outcome, count in self.failures.items() if outcome.startswith(WRONG_ANSWER))

    def stability(self, seconds: float) -> Stability | None:
        """Whether the fifths of a measurement agree within 10 % or within chance; None without answers."""
        counts = _in_parts(self._slots, seconds, _PARTS)
        if seconds <= 0 or not counts.sum():
            return None
        rates = counts / (seconds / _PARTS)
        spread = float(np.abs(rates - rates.mean()).max() / rates.mean())
        allowed = max(_STABLE_SPREAD, _CHANCE / math.sqrt(counts.mean()))
        return Stability(stable=spread <= allowed, throughput=rates.tolist(), spread=spread)

    def latency_growth(self, seconds: float) -> float | None:
        """How fast the latency of what was due grows from the first third to the last, in seconds a second.

        Where requests come in faster than they are answered it is the share that is too much, however long the
        measurement: at 104 requests a second a server of 100 a second falls behind by 0.04 s each second.

        Returns:
            0 where the middle third does not lie between the others, because that is chance; None where a
            third has no answers.
        """
        if seconds <= 0:
            return None
        counts, waited = _in_parts(self._due_slots, seconds, 3), _in_parts(self._waited, seconds, 3)
        if not counts.all():
            return None
        first, middle, last = (waited / counts).tolist()
        return (last - first) / (2 * seconds / 3) if first < middle < last else 0.0

    def timeline(self, seconds: float) -> list[TimelineSecond]:
        """What was answered in each second, also of what was sent in the warm-up."""
        rows = []
        for number in range(math.ceil(seconds)):
            second = self._seconds.get(number) or _Second()
            median, p99 = second.latency.percentiles([50, 99]) or (None, None)
            rows.append(
                TimelineSecond(
                    second=number,
                    answers=second.answers,
                    errors=second.errors,
                    median_latency=median,
                    p99_latency=p99,
                )
            )
        return rows

    def _add_times(self, records: Records) -> None:
        right = records.done[records.right]
        self.in_time += right.size
        self._slots = _sum(self._slots, np.bincount(right // _SLOT))
        which = records.done // 1_000_000_000
        for number in np.unique(which).tolist():
            part = records.select(which == number)
            answers = int(part.right.sum())
            second = self._seconds[number]
            second.answers += answers
            second.errors += part.right.size - answers
            second.latency.add((part.done - part.due)[part.right])


def _sum(slots: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    """What was counted in slots of time so far, and more of it."""
    longer = np.pad(slots, (0, max(0, more.size - slots.size)))
    longer[: more.size] += more
    return longer


def _in_parts(slots: NDArray[Any], seconds: float, parts: int) -> NDArray[np.float64]:
    """What was counted in each of a measurement's equal parts; an edge inside a slot divides what the slot holds."""
    edges = np.linspace(0, seconds * 1e9 / _SLOT, parts + 1)
    so_far = np.concatenate(([0], np.cumsum(slots)))
    return np.diff(np.interp(edges, np.arange(so_far.size), so_far))
