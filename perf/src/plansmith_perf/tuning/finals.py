"""The best trials against the configuration in use, in interleaved rounds: the maximum of a search flatters itself."""

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
from plansmith_perf.results.documents import ClosedLoop
from plansmith_perf.tuning.records import FinalRound, TrialRecord
from plansmith_perf.tuning.round_length import round_seconds
from plansmith_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.results.documents import Measurement
    from plansmith_perf.tuning.trials import TrialRunner
    from plansmith_perf.tuning.workbench import LoadedTrial

__all__ = ["LEAST_GAIN", "Decision", "Finalist", "decide", "play_rounds"]

# Less than this is not worth a new version.
LEAST_GAIN = 1.02
_SIGNIFICANT = 0.05
# How often a finalist may try fewer requests in flight, and how many of them are left each time.
_STEPS_DOWN = 3
_STEP_DOWN = 0.75


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
        kept: in how many rounds the winner kept the SLO.
    """

    winner: int | None
    ratio: float | None
    p_value: float | None
    reason: str
    kept: int = 0


@dataclass
class _Player:
    """A finalist with its running server.

    Attributes:
        trial: its server.
        load: the concurrency that was best in the search, or fewer where that turned out to miss the SLO.
        rate: answers per second that are expected of it.
        missed: rounds in which it did not keep the SLO.
    """

    trial: LoadedTrial
    load: ClosedLoop
    rate: float
    missed: int = 0


def play_rounds(
    runner: TrialRunner,
    finalists: Sequence[Finalist],
    *,
    in_use: int,
    rounds: int,
    progress: Callable[[str, int, int], None],
) -> tuple[FinalRound, ...]:
    """Measure all in turn, each on a server of its own that runs throughout and at its own best concurrency.

    What is published is decided here, so a measurement lasts until enough was answered for the SLO's percentile. The
    search was shorter: what misses the SLO in its first round plays on with fewer requests in flight. A finalist whose
    server does not start again, or answers wrongly, has no more rounds from then on; neither has one that has missed
    the SLO too often to win.

    Args:
        runner: of the search.
        finalists: the configuration in use among them, if it keeps the SLO at all.
        in_use: number of the trial with the configuration in use.
        rounds: how often.
        progress: called before each measurement with what it is, how many there were, and how many there will be.
    """
    played: list[FinalRound] = []
    with ExitStack() as stack:
        running: dict[int, _Player] = {}
        for finalist in finalists:
            try:
                trial = stack.enter_context(runner.workbench.serve(finalist.config))
                runner.prepare(trial, reduced_precision=finalist.reduced_precision)
            except (ServerError, ClientError, PerfError):
                continue
            load = ClosedLoop(concurrency=finalist.record.concurrency)
            running[finalist.record.number] = _Player(trial, load, finalist.record.throughput)
        for number in range(rounds):
            # Not always in the same order: what comes first finds the machine as the last one left it.
            order = sorted(running, reverse=bool(number % 2))
            for place, which in enumerate(order):
                player = running[which]
                left = len(order) - place + (rounds - number - 1) * len(running)
                name = f"round {number + 1} of {rounds}: {'what is in use' if which == in_use else f'trial {which}'}"

                def tell(doing: str, name: str = name, left: int = left) -> None:
                    progress(f"{name}, {doing}", len(played), len(played) + left)

                try:
                    found = _measured(runner, player, number, tell)
                    if number == 0 and not runner.slo.is_met(found):
                        found = _with_fewer_in_flight(runner, player, found, tell)
                except PerfError:
                    del running[which]
                    continue
                played.append(_final_round(runner, which, number, found))
                player.missed += not played[-1].kept
                if which != in_use and 2 * player.missed >= rounds:
                    del running[which]
            if not running.keys() - {in_use}:
                break
    return tuple(played)


def _measured(runner: TrialRunner, player: _Player, number: int, tell: Callable[[str], None]) -> Measurement:
    """One measurement, and a longer one where its answers are fewer than the search promised."""
    for last in (False, True):
        seconds = round_seconds(runner.slo, player.rate, least=runner.measuring.seconds)
        tell(f"{player.load.concurrency} in flight, {seconds:.2g} s")
        options = replace(runner.measuring, seed=runner.measuring.seed + number, seconds=seconds)
        found = player.trial.measure(player.load, options, lambda _: None)
        if last or not runner.slo.is_met(found) or runner.slo.has_enough(found):
            break
        player.rate = min(player.rate, found.throughput)
    return found


def _with_fewer_in_flight(
    runner: TrialRunner, player: _Player, found: Measurement, tell: Callable[[str], None]
) -> Measurement:
    """The first round with as few requests in flight as it takes to keep the SLO, if some steps down lead there."""
    for _ in range(_STEPS_DOWN):
        if player.load.concurrency == 1:
            break
        player.load = ClosedLoop(concurrency=int(_STEP_DOWN * player.load.concurrency))
        player.rate *= _STEP_DOWN
        found = _measured(runner, player, 0, tell)
        if runner.slo.is_met(found):
            # Chosen because it kept the SLO: the round is another one, which may not.
            return _measured(runner, player, 0, tell)
    return found


def _final_round(runner: TrialRunner, which: int, number: int, found: Measurement) -> FinalRound:
    return FinalRound(
        trial=which,
        round=number,
        throughput=found.throughput,
        concurrency=found.load.concurrency if isinstance(found.load, ClosedLoop) else None,
        latency=found.latency.percentiles[f"{runner.slo.percentile:g}"] if found.latency else None,
        kept=runner.slo.is_met(found) and runner.slo.has_enough(found),
        seconds=found.seconds,
        answers=found.requests - found.errors,
        notes=tuple(found.notes),
    )


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
