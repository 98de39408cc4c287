"""The best trials against the configuration in use, in interleaved rounds: the maximum of a search flatters itself."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from plansmith_client import ClientError
from plansmith_perf.errors import LoadTestMisconfigured, PerfError
from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.results.documents import ClosedLoop
from plansmith_perf.results.formatting import as_rate, as_seconds
from plansmith_perf.tuning.records import FinalRound, TrialRecord
from plansmith_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.results.documents import Measurement
    from plansmith_perf.slo import Slo
    from plansmith_perf.tuning.trials import TrialRunner
    from plansmith_perf.tuning.workbench import LoadedTrial

__all__ = ["LONGEST_ROUND", "Finalist", "check_round_length", "play_rounds", "round_seconds"]

# Seconds. Four finalists in five rounds are twenty measurements.
LONGEST_ROUND = 60.0
# The rate of a round is not exactly that of the search.
_MARGIN = 1.1
_LOWER = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0)
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
        tell(f"{player.load.concurrency} in flight, {as_seconds(seconds)} s")
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
        f"p{slo.percentile:g} takes {samples_needed(slo.percentile):,} answers, and what is in use gives "
        f"{as_rate(rate)} a second: a round of {longest:g} s is too short to decide anything; give --seconds "
        f"{math.ceil(seconds)}{other}"
    )


def _enough(percentile: float, rate: float) -> float:
    return _MARGIN * samples_needed(percentile) / rate if rate else math.inf


def _rate(trial: TrialRecord) -> float:
    """Answers per second; where none came inside the measurement, what the latency of the one after it amounts to."""
    if trial.throughput or not trial.latency:
        return trial.throughput
    return trial.concurrency * 1e6 / trial.latency
