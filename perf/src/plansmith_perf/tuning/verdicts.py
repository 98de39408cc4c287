"""What a tuning run has found, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.tuning.finals import Decision
    from plansmith_perf.tuning.records import TrialRecord

__all__ = ["verdict"]


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
