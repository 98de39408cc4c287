"""What the rounds of the best trials decide, and what a tuning run has found, in one sentence."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.tuning.records import FinalRound, TrialRecord

__all__ = ["LEAST_GAIN", "Decision", "decide", "verdict"]

# Less than this is not worth a new version.
LEAST_GAIN = 1.02
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Decision:
    """What the rounds say.

    Attributes:
        winner: number of the trial that is better; None where none is for sure.
        ratio: of its throughput, or of the best loser's, to that of the configuration in use; None where that misses
            the SLO.
        p_value: of the same.
        reason: why there is no winner, or "".
        kept: in how many rounds the winner kept the SLO.
    """

    winner: int | None
    ratio: float | None
    p_value: float | None
    reason: str
    kept: int = 0


def decide(
    played: Sequence[FinalRound], *, in_use: int | None, finalists: Sequence[int], rounds: int, needed: int = 0
) -> Decision:
    """Choose the best finalist that keeps the SLO in more than half of the rounds and is faster for sure.

    Args:
        played: all measurements.
        in_use: number of the trial with the configuration in use; None where that misses the SLO.
        finalists: the other ones.
        rounds: how many there were to be.
        needed: answers that the SLO's percentile takes.
    """
    rates = {number: {r.round: r.throughput for r in played if r.trial == number} for number in finalists}
    theirs = {r.round: r.throughput for r in played if r.trial == in_use}
    kept = {number: sum(r.kept for r in played if r.trial == number) for number in finalists}
    usable = [number for number in finalists if len(rates[number]) == rounds and 2 * kept[number] > rounds]
    if not usable:
        few = [r.answers for r in played if r.trial in finalists and r.answers is not None and r.answers < needed]
        short = f"; some had {min(few):,} answers where it takes {needed:,}, give --seconds more" if few else ""
        return Decision(None, None, None, f"no finalist kept the SLO in more than half of the rounds{short}")
    if in_use is None:
        best = max(usable, key=lambda number: statistics.median(rates[number].values()))
        return Decision(best, None, None, "", kept[best])
    if len(theirs) < rounds:
        return Decision(None, None, None, "it could not be measured in every round, so nothing can be compared with it")
    ratios = {number: [rates[number][turn] / rate for turn, rate in theirs.items() if rate] for number in usable}
    best = max(usable, key=lambda number: statistics.median(ratios[number] or [0.0]))
    ratio = statistics.median(ratios[best] or [0.0])
    p_value = _p_value(ratios[best])
    if ratio < LEAST_GAIN:
        return Decision(None, ratio, p_value, f"the best is {ratio:.2f} times as fast, less than {LEAST_GAIN:g} times")
    # Each finalist is another chance to be lucky.
    if not p_value <= _SIGNIFICANT / len(finalists):
        return Decision(None, ratio, p_value, f"{ratio:.2f} times as fast may be chance (p = {p_value:.2g})")
    return Decision(best, ratio, p_value, "", kept[best])


def _p_value(ratios: Sequence[float]) -> float:
    """How probable such ratios are if the two were equally fast."""
    logarithms = np.log([ratio for ratio in ratios if ratio > 0])
    if len(logarithms) < 2 or len(logarithms) < len(ratios):  # noqa: PLR2004 - a spread takes two
        return 1.0
    value = float(stats.ttest_1samp(logarithms, 0.0, alternative="greater").pvalue)
    return 1.0 if math.isnan(value) else value


def verdict(
    trials: Sequence[TrialRecord], decision: Decision | None, slo: str, *, in_use_path: str, rounds: int
) -> str:
    """The sentence, without a full stop."""
    in_use, measured = trials[0], [trial for trial in trials if trial.status == "measured"]
    if not measured:
        missed = [trial.latency for trial in trials if trial.status == "misses" and trial.latency is not None]
        closest = f"the closest came to {min(missed) / 1000:,.2f} ms" if missed else "none could be measured"
        return f"no configuration keeps {slo}, not even with one request in flight: {closest}"
    if decision is not None and decision.winner is not None:
        kept = f"in {'all' if decision.kept == rounds else decision.kept} of {rounds} rounds"
        if decision.ratio is None:
            return f"trial {decision.winner} keeps {slo} {kept}, which {in_use_path} does not"
        return (
            f"trial {decision.winner} gives {decision.ratio:.2f} times the throughput of {in_use_path}, and kept {slo} "
            f"{kept}"
        )
    if in_use.status != "measured":
        why = decision.reason if decision is not None else in_use.reason
        return f"nothing is published: {why}"
    why = decision.reason if decision is not None else "no trial was faster"
    return f"{in_use_path} keeps its place: {why}"
