"""The best trials beside the configuration in use, in interleaved rounds: a search's maximum flatters itself."""

from __future__ import annotations

import math
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from plansmith_client import ClientError
from plansmith_perf.errors import PerfError
from plansmith_perf.results import ClosedLoop
from plansmith_perf.tuning.records import FinalRound, TrialRecord
from plansmith_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.tuning.trials import TrialRunner

__all__ = ["LEAST_GAIN", "Decision", "Finalist", "decide", "play_rounds"]

# Less than this is not worth a new version.
LEAST_GAIN = 1.02
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Finalist:
    """A trial that is measured again.

    Attributes:
        record: of the search.
        config: an `inference.ModelConfig`.
        reduced_precision: see `Variant`.
    """

    record: TrialRecord
    config: Any
    reduced_precision: bool


@dataclass(frozen=True)
class Decision:
    """What the rounds say.

    Attributes:
        winner: number of the trial that is better; None where none is for sure.
        ratio: of its throughput, or of the best loser's, to that of the configuration in use; None where that misses
            the SLO.
        p_value: of the same.
        reason: why there is no winner, or "".
    """

    winner: int | None
    ratio: float | None
    p_value: float | None
    reason: str


def play_rounds(
    runner: TrialRunner, finalists: Sequence[Finalist], *, rounds: int, progress: Callable[[int], None]
) -> tuple[FinalRound, ...]:
    """Measure all in turn, each on a server of its own that runs throughout and at its own best concurrency.

    A finalist whose server does not start again, or answers wrongly, has no more rounds from then on.

    Args:
        runner: of the search.
        finalists: the configuration in use among them, if it keeps the SLO at all.
        rounds: how often.
        progress: called with the number of the round.
    """
    played: list[FinalRound] = []
    with ExitStack() as stack:
        running = {}
        for finalist in finalists:
            try:
                trial = stack.enter_context(runner.workbench.serve(finalist.config))
                runner.prepare(trial, reduced_precision=finalist.reduced_precision)
            except (ServerError, ClientError, PerfError):
                continue
            running[finalist.record.number] = (trial, ClosedLoop(concurrency=finalist.record.concurrency))
        for number in range(rounds):
            progress(number)
            # Not always in the same order: what comes first finds the machine as the last one left it.
            order = sorted(running, reverse=bool(number % 2))
            for which in order:
                trial, load = running[which]
                options = replace(runner.measuring, seed=runner.measuring.seed + number)
                try:
                    found = trial.measure(load, options, lambda _: None)
                except PerfError:
                    del running[which]
                    continue
                latency = found.latency.percentiles[f"{runner.slo.percentile:g}"] if found.latency else None
                played.append(
                    FinalRound(
                        trial=which,
                        round=number,
                        throughput=found.throughput,
                        latency=latency,
                        kept=runner.slo.is_met(found),
                    )
                )
    return tuple(played)


def decide(played: Sequence[FinalRound], *, in_use: int, finalists: Sequence[int], rounds: int) -> Decision:
    """Choose the best finalist that keeps the SLO in more than half of the rounds and is faster for sure.

    Args:
        played: all measurements.
        in_use: number of the trial with the configuration in use; it has no rounds where it misses the SLO.
        finalists: the other ones.
        rounds: how many there were to be.
    """
    rates = {number: {r.round: r.throughput for r in played if r.trial == number} for number in [in_use, *finalists]}
    kept = {number: sum(r.kept for r in played if r.trial == number) for number in finalists}
    usable = [number for number in finalists if len(rates[number]) == rounds and 2 * kept[number] > rounds]
    if not usable:
        return Decision(None, None, None, "no finalist kept the SLO in more than half of the rounds")
    if not rates[in_use]:
        best = max(usable, key=lambda number: statistics.median(rates[number].values()))
        return Decision(best, None, None, "")
    ratios = {number: [rates[number][turn] / rate for turn, rate in rates[in_use].items() if rate] for number in usable}
    best = max(usable, key=lambda number: statistics.median(ratios[number] or [0.0]))
    ratio = statistics.median(ratios[best] or [0.0])
    p_value = _p_value(ratios[best])
    if ratio < LEAST_GAIN:
        return Decision(None, ratio, p_value, f"the best is {ratio:.2f} times as fast, less than {LEAST_GAIN:g} times")
    # Each finalist is another chance to be lucky.
    if not p_value <= _SIGNIFICANT / len(finalists):
        return Decision(None, ratio, p_value, f"{ratio:.2f} times as fast may be chance (p = {p_value:.2g})")
    return Decision(best, ratio, p_value, "")


def _p_value(ratios: Sequence[float]) -> float:
    """How probable such ratios are if the two were equally fast."""
    logarithms = np.log([ratio for ratio in ratios if ratio > 0])
    if len(logarithms) < 2 or len(logarithms) < len(ratios):  # noqa: PLR2004 - a spread takes two
        return 1.0
    value = float(stats.ttest_1samp(logarithms, 0.0, alternative="greater").pvalue)
    return 1.0 if math.isnan(value) else value
