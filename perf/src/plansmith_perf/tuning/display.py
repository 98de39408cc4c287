"""What `plansmith tune` shows when it is done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console

from plansmith_perf.results.terminal_tables import Column, print_table, visible

if TYPE_CHECKING:
    from plansmith_perf.tuning.options import TuningResult
    from plansmith_perf.tuning.records import TrialRecord, TuningRecord

__all__ = ["outcome", "result_as_json", "show_result"]

_SHOWN = 10


def outcome(trial: TrialRecord) -> str:
    """What became of a trial, in a few words."""
    if trial.status == "measured":
        return f"{trial.throughput:,.0f} requests/s with {trial.concurrency} in flight"
    if trial.status == "misses" and trial.latency is not None:
        return f"misses the SLO: {trial.latency / 1000:,.2f} ms {trial.reason}"
    return f"{trial.status}: {trial.reason}"


def result_as_json(result: TuningResult) -> str:
    """One JSON document: the evidence, the change, and where the new version is."""
    published = result.published
    return json.dumps(
        {
            "tuning": result.record.model_dump(mode="json"),
            "met": result.met,
            "diff": result.diff,
            "version": published.version if published is not None else None,
            "path": str(published.path) if published is not None else None,
            "notes": published.notes if published is not None else [],
            "storage": str(result.storage),
        },
        indent=2,
    )


def show_result(result: TuningResult) -> None:
    """Tables and the change on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    record = result.record
    _print_trials(record)
    if record.rounds:
        _print_rounds(record)
    console.print(visible(record.verdict), markup=False)
    if result.diff:
        console.print()
        console.print(result.diff.rstrip("\n"), markup=False)
    published = result.published
    if published is not None:
        console.print(f"\nversion {published.version} of {record.model} is published: {published.path}", markup=False)
        for note in published.notes:
            console.print(f"note: {note}", markup=False)
    elif record.winner is not None:
        console.print("\nNothing was changed: this was a dry run.")


def _print_trials(record: TuningRecord) -> None:
    # One that took no time is what is in use, which stands above.
    others = [trial for trial in record.trials[1:] if trial.seconds]
    best = sorted(others, key=lambda trial: (trial.status != "measured", -trial.throughput))
    shown = [record.trials[0], *best[:_SHOWN]]
    columns = [
        *(Column("trial"), Column("setting", "words"), Column("requests/s"), Column("in flight", spare=1)),
        *(Column(f"{record.slo.partition('=')[0]}, ms"), Column("outcome", spare=2)),
    ]
    title = f"{record.model} version {record.model_version}, {record.slo}: {len(record.trials) - 1} of {record.space}"
    rows = [
        [
            _name(trial.number),
            str(trial.setting),
            f"{trial.throughput:,.0f}" if trial.throughput else "-",
            str(trial.concurrency or "-"),
            f"{trial.latency / 1000:,.2f}" if trial.latency is not None else "-",
            trial.status,
        ]
        for trial in shown
    ]
    console = Console(highlight=False)
    print_table(
        console,
        columns,
        rows,
        title=title,
        caption=f"the best {_SHOWN} of {len(best)}; --json shows all" if len(best) > _SHOWN else "",
    )
    for trial in shown:
        if trial.reason:
            line = f"{'in use' if not trial.number else f'trial {trial.number}'}: {trial.status}: {trial.reason}"
            console.print(visible(line), soft_wrap=True, markup=False)


def _print_rounds(record: TuningRecord) -> None:
    rounds = sorted({played.round for played in record.rounds})
    columns = [
        *(Column("trial"), Column("in flight", spare=1)),
        *(Column(f"round {number + 1}", spare=number + 2) for number in rounds),
    ]
    rows = []
    for trial in dict.fromkeys(played.trial for played in record.rounds):
        by_round = {played.round: played for played in record.rounds if played.trial == trial}
        cells = [
            f"{found.throughput:,.0f}{'' if found.kept else '*'}" if (found := by_round.get(number)) else "-"
            for number in rounds
        ]
        in_flight = next(iter(by_round.values())).concurrency
        rows.append([_name(trial), str(in_flight or "-"), *cells])
    missed = any(not played.kept for played in record.rounds)
    caption = "* missed the SLO" if missed else ""
    print_table(Console(highlight=False), columns, rows, title="Rounds, in turn, requests/s", caption=caption)


def _name(trial: int) -> str:
    return str(trial) if trial else "in use"
