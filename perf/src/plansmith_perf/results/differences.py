"""Whether two load tests differ, by more than noise explains.

What is compared are the means of several figures of each side. Where both have three rounds or more (`--rounds`), a
figure is a round's: what changes from run to run, which is most of the noise, is then in the comparison. Otherwise it
is that of one second. Seconds that follow each other resemble each other, so they count for less than their number
(the effective sample size of an autoregressive process of first order), and what changes from run to run stays unseen.

The test is Welch's on the logarithm of the ratio, with the delta method for its variance. The chances of all rows
together are adjusted after Benjamini and Hochberg: of what is called a difference, at most 5 % is noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import stats

from plansmith_perf.results.documents import ClosedLoop, LoadTestResult, Measurement, OpenLoop, Part, by_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Change", "Difference", "difference"]

_ROUNDS_NEEDED = 3
_SECONDS_NEEDED = 5
_SIGNIFICANT = 0.05
_CONFIDENCE = 0.95
_MOST_CORRELATION = 0.9
# The p99 of fewer answers is their greatest latency.
_ANSWERS_FOR_P99 = 100


class Change(Part):
    """One figure of one load, before and after; latencies are microseconds."""

    load: Annotated[ClosedLoop | OpenLoop, Field(discriminator="kind")]
    figure: Annotated[str, Field(description="'answers/s', a percentile such as 'p99', or 'errors', a share")]
    of_each: Annotated[Literal["round", "second", "request"], Field(description="what was compared with each other")]
    counts: Annotated[tuple[int, int], Field(description="how many of them there were, before and after")]
    before: Annotated[float, Field(description="their mean")]
    after: float
    ratio: Annotated[float | None, Field(description="after / before; None where it has no value")]
    interval: Annotated[tuple[float, float] | None, Field(description="of the ratio, at 95 %")]
    chance: Annotated[float | None, Field(description="of such a difference by noise alone, adjusted; None: too few")]
    verdict: Literal["better", "worse", "no difference shown", "too little data"]


class Difference(Part):
    """Two results compared."""

    changes: list[Change]
    not_compared: Annotated[
        list[Annotated[ClosedLoop | OpenLoop, Field(discriminator="kind")]],
        Field(description="loads of the first that the second lacks, or of which there is too little data"),
    ]
    notes: Annotated[list[str], Field(description="what to know before trusting the comparison")]

    def worse(self, *, than: float) -> list[Change]:
        """What got worse, beyond noise, by more than a share such as 0.05; more errors always count."""
        return [
            change
            for change in self.changes
            if change.verdict == "worse"
            and (change.ratio is None or change.figure == "errors" or abs(math.log(change.ratio)) > math.log1p(than))
        ]


class _Figure(NamedTuple):
    """One figure of one load, compared but not judged yet."""

    load: ClosedLoop | OpenLoop
    name: str
    of_each: Literal["round", "second", "request"]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    chance: float | None
    interval: tuple[float, float] | None = None


def difference(before: LoadTestResult, after: LoadTestResult) -> Difference:
    """Compare the loads that two results share."""
    old, new = by_load(before.measurements), by_load(after.measurements)
    figures = [figure for load in old if load in new for figure in _figures(load, old[load], new[load])]
    known = [figure.chance for figure in figures if figure.chance is not None]
    adjusted = iter(stats.false_discovery_control(known).tolist() if known else [])
    changes = [_change(figure, next(adjusted) if figure.chance is not None else None) for figure in figures]
    judged = {change.load for change in changes if change.verdict != "too little data"}
    not_compared = [load for load in old if load not in judged]
    return Difference(changes=changes, not_compared=not_compared, notes=_notes(before, after, changes))


def _figures(
    load: ClosedLoop | OpenLoop, before: Sequence[Measurement], after: Sequence[Measurement]
) -> Iterable[_Figure]:
    by_round = min(len(before), len(after)) >= _ROUNDS_NEEDED
    read = _of_rounds if by_round else _of_seconds
    needed = _ROUNDS_NEEDED if by_round else _SECONDS_NEEDED
    old, new = read(before), read(after)
    for name in old:
        if name not in new or not (len(old[name]) and len(new[name])):
            continue
        pair = np.asarray(old[name], float), np.asarray(new[name], float)
        if min(map(len, pair)) < needed or not min(values.mean() for values in pair):
            yield _Figure(load, name, "round" if by_round else "second", *pair, None)
        else:
            yield _Figure(load, name, "round" if by_round else "second", *pair, *_welch(*pair, independent=by_round))
    yield from _errors(load, before, after)


def _errors(
    load: ClosedLoop | OpenLoop, before: Sequence[Measurement], after: Sequence[Measurement]
) -> Iterable[_Figure]:
    counts = [(sum(m.errors for m in side), sum(m.requests for m in side)) for side in (before, after)]
    if any(errors for errors, _ in counts) and all(requests for _, requests in counts):
        chance = float(stats.fisher_exact([[errors, requests - errors] for errors, requests in counts]).pvalue)
        shares = [np.repeat([1.0, 0.0], [errors, requests - errors]) for errors, requests in counts]
        yield _Figure(load, "errors", "request", shares[0], shares[1], chance)


def _of_rounds(measurements: Sequence[Measurement]) -> dict[str, list[float]]:
    figures = {"answers/s": [measured.throughput for measured in measurements]}
    for measured in measurements:
        for percent, value in (measured.latency.percentiles if measured.latency else {}).items():
            figures.setdefault(f"p{percent}", []).append(value)
    return figures


def _of_seconds(measurements: Sequence[Measurement]) -> dict[str, list[float]]:
    # The last second may be a part of one.
    rows = [row for m in measurements for row in m.timeline if row.second + 1 <= m.seconds]
    tails = [row.p99_latency for row in rows if row.answers >= _ANSWERS_FOR_P99 and row.p99_latency is not None]
    return {
        "answers/s": [float(row.answers) for row in rows],
        "p50": [row.median_latency for row in rows if row.median_latency is not None],
        "p99": tails,
    }


def _welch(
    before: NDArray[np.float64], after: NDArray[np.float64], *, independent: bool
) -> tuple[float, tuple[float, float]]:
    """The chance that noise alone makes the means differ as much, and the interval of their ratio."""
    change = math.log(after.mean() / before.mean())
    sizes = [len(values) if independent else _effective_size(values) for values in (before, after)]
    variances = [
        float((values.std(ddof=1) / values.mean()) ** 2 / size)
        for values, size in zip((before, after), sizes, strict=True)
    ]
    error = math.sqrt(sum(variances))
    if not error:
        return (float(change == 0), (math.exp(change), math.exp(change)))
    freedom = error**4 / sum(v**2 / (size - 1) for v, size in zip(variances, sizes, strict=True))
    chance = float(2 * stats.t.sf(abs(change) / error, freedom))
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * error
    return chance, (math.exp(change - reach), math.exp(change + reach))


def _effective_size(values: NDArray[np.float64]) -> float:
    centred = values - values.mean()
    spread = float(centred @ centred)
    correlation = float(centred[1:] @ centred[:-1]) / spread if spread else 0.0
    # A short series estimates it too low, by about this much (Kendall 1954).
    correlation += (1 + 3 * correlation) / len(values)
    correlation = min(_MOST_CORRELATION, max(0.0, correlation))
    return max(2.0, len(values) * (1 - correlation) / (1 + correlation))


def _change(figure: _Figure, chance: float | None) -> Change:
    before, after = float(figure.before.mean()), float(figure.after.mean())
    ratio = after / before if before and after else None
    verdict: Literal["better", "worse", "no difference shown", "too little data"] = "no difference shown"
    if chance is None:
        verdict = "too little data"
    elif chance < _SIGNIFICANT:
        verdict = "better" if (after > before) == (figure.name == "answers/s") else "worse"
    return Change(
        load=figure.load,
        figure=figure.name,
        of_each=figure.of_each,
        counts=(len(figure.before), len(figure.after)),
        before=before,
        after=after,
        ratio=ratio,
        interval=figure.interval,
        chance=chance,
        verdict=verdict,
    )


def _notes(before: LoadTestResult, after: LoadTestResult, changes: Sequence[Change]) -> list[str]:
    notes = []
    same: dict[str, Callable[[LoadTestResult], object]] = {
        "the model": lambda result: result.model,
        "the protocol": lambda result: result.protocol,
        "the batch size": lambda result: result.batch_size,
        "the inputs": lambda result: result.inputs,
        "the load generator": lambda result: result.tool,
        "its processes": lambda result: result.workers,
        "the processor": lambda result: f"{result.environment.processor} x {result.environment.cores}",
        "the server": lambda result: result.environment.server,
    }
    for name, read in same.items():
        old, new = read(before), read(after)
        if old != new:
            notes.append(f"{name} differs: {old} before, {new} after")
    for when, result in {"before": before, "after": after}.items():
        if not result.complete:
            notes.append(f"the result {when} is partial: {result.interruption}")
        doubts = sum(1 for measured in result.measurements if measured.notes)
        if doubts:
            notes.append(f"{doubts} of {len(result.measurements)} measurements {when} have notes: read them first")
    if not changes:
        notes.append("the results have no load in common: measure both with the same --concurrency or --rate")
    elif any(change.of_each == "second" for change in changes):
        notes.append(
            "seconds of one run were compared: what changes from run to run is not in it; measure both with --rounds 5"
        )
    return notes
