"""INT8 on a CPU by the fastest of the methods that are inside the budget, its layers ranked only where that may pay."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plansmith_build.precision.variants import MOST_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_build.search.candidates import Candidate

__all__ = ["Attempt", "fastest_method"]

_NOT_RANKED = "its layers were not ranked: with some in FP32 it would hardly be faster than what is inside the budget"


@dataclass(frozen=True)
class Attempt:
    """A method that was tried on an engine.

    Attributes:
        name: the method's.
        candidate: the whole graph in INT8, judged, and timed also where it is outside the budget.
        used: how much of the budget it uses: above 1 is outside.
        with_some_kept: ranks its layers, and tries it with so many in FP32 as the budget wants, which do no more than
            the given share of the work; None where there is nothing to rank.
    """

    name: str
    candidate: Candidate
    used: float
    with_some_kept: Callable[[float], Attempt] | None = None


def fastest_method(
    methods: Sequence[Callable[[], Attempt]],
    otherwise: Sequence[Callable[[], Attempt]],
    *,
    fastest: float,
    fp32: float,
) -> Candidate:
    """The fastest candidate inside the budget, or else the one that comes closest to it.

    Args:
        methods: each tries the whole graph.
        otherwise: the same, for where none of those is inside.
        fastest: the speed of the fastest other candidate inside the budget, as a ratio like all speeds; 0 for none.
        fp32: the speed of FP32 on the engine.
    """
    tried = [method() for method in methods]
    if not any(attempt.candidate.is_usable for attempt in tried):
        tried += [method() for method in otherwise]
    for attempt in sorted(tried, key=_speed, reverse=True):
        if attempt.candidate.is_usable or attempt.with_some_kept is None:
            continue
        inside = [_speed(other) for other in tried if other.candidate.is_usable]
        share = _share_to_spare(_speed(attempt), max([fastest, *inside]), fp32)
        # What has to stay, if the loss is spread evenly; half at most may. Where no other is inside, the ranking says.
        needed = min(1 - 1 / attempt.used, MOST_KEPT) if inside else 0.0
        ranked = attempt.with_some_kept(share) if share > needed else None
        if ranked is None or not math.isfinite(ranked.used):
            why = ranked.candidate.reason if ranked is not None else _NOT_RANKED
            ranked = replace(attempt, candidate=replace(attempt.candidate, reason=f"{attempt.candidate.reason}; {why}"))
        tried[tried.index(attempt)] = min(ranked, attempt, key=lambda one: one.used)
    usable = [attempt for attempt in tried if attempt.candidate.is_usable]
    if not usable:
        return min(tried, key=lambda attempt: attempt.used).candidate
    best = max(usable, key=_speed)
    remarks = [
        f"{attempt.name}: {attempt.candidate.reason or f'{_speed(attempt):.2f} of FP32'}"
        for attempt in tried
        if attempt is not best and math.isfinite(attempt.used)
    ]
    return replace(best.candidate, reason="; ".join(remarks))


def _share_to_spare(whole: float, fastest: float, fp32: float) -> float:
    """The share of the work that may be done in FP32 for the rest to be as fast as the fastest so far."""
    if whole <= fastest:
        return 0.0
    if not fastest or whole <= fp32:
        return 1.0
    return min(1.0, (1 / fastest - 1 / whole) / (1 / fp32 - 1 / whole))


def _speed(attempt: Attempt) -> float:
    """Its ratio; infinite where it was not timed, so that nothing is ruled out by it."""
    speed = attempt.candidate.speed
    return speed.ratio if speed is not None else math.inf
