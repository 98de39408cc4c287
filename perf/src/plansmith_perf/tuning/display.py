"""What `plansmith tune` shows when it is done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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
    console.print(_trials_table(record))
    if record.rounds:
        console.print(_rounds_table(record))
    console.print(record.verdict, markup=False)
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


def _trials_table(record: TuningRecord) -> Table:
    title = f"{record.model} version {record.model_version}, {record.slo}: {len(record.trials) - 1} of {record.space}"
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("trial", justify="right")
    table.add_column("setting", min_width=34)
    for heading in ("requests/s", "in flight", record.slo.partition("=")[0]):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    # One that took no time is what is in use, which stands above.
    others = [trial for trial in record.trials[1:] if trial.seconds]
    best = sorted(others, key=lambda trial: (trial.status != "measured", -trial.throughput))
    for trial in [record.trials[0], *best[:_SHOWN]]:
        table.add_row(
            str(trial.number) if trial.number else "in use",
            str(trial.setting),
            f"{trial.throughput:,.0f}" if trial.throughput else "-",
            str(trial.concurrency or "-"),
            f"{trial.latency / 1000:,.2f} ms" if trial.latency is not None else "-",
            "" if trial.status == "measured" else f"{trial.status}: {trial.reason}",
        )
    if len(best) > _SHOWN:
        table.caption = f"the best {_SHOWN} of {len(best)}; --json shows all"
    return table


def _rounds_table(record: TuningRecord) -> Table:
    table = Table(title="Rounds, in turn, requests/s", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("trial", justify="right")
    table.add_column("in flight", justify="right")
    rounds = sorted({played.round for played in record.rounds})
    for number in rounds:
        table.add_column(str(number + 1), justify="right")
    for trial in dict.fromkeys(played.trial for played in record.rounds):
        by_round = {played.round: played for played in record.rounds if played.trial == trial}
        cells = [
            f"{found.throughput:,.0f}{'' if found.kept else ' (missed)'}" if (found := by_round.get(number)) else "-"
            for number in rounds
        ]
        in_flight = next(iter(by_round.values())).concurrency
        table.add_row(str(trial) if trial else "in use", str(in_flight or "-"), *cells)
    return table
