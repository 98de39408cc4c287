"""A tuning run as a plot and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.report.figures import Figure, axis, color_of_series, latency_axis, layout, plain
from plansmith_perf.report.load_figures import slo_lines
from plansmith_perf.results.formatting import as_milliseconds, as_rate
from plansmith_perf.results.tables import NOTHING, Cell, Column, Table
from plansmith_perf.slo import Slo

if TYPE_CHECKING:
    from plansmith_perf.tuning.records import TrialRecord, TuningRecord

__all__ = ["rounds_table", "trials_figure", "trials_table"]

_IN_USE = 0
_OUTCOMES = {
    "inside the SLO": (0, "circle"),
    "hopeless, ended early": (6, "x"),
    "in use": (1, "diamond"),
    "winner": (2, "star"),
}


def trials_figure(name: str, record: TuningRecord) -> Figure | None:
    """Latency against throughput of the trials; None where none gave a throughput."""
    slo = Slo.parse(record.slo)
    groups: dict[str, list[TrialRecord]] = {outcome: [] for outcome in _OUTCOMES}
    for trial in record.trials:
        if trial.throughput and trial.latency is not None:
            groups[_outcome(record, trial)].append(trial)
    shown = [trial for trials in groups.values() for trial in trials]
    if not shown:
        return None
    data: list[dict[str, Any]] = []
    for outcome, trials in groups.items():
        color, symbol = _OUTCOMES[outcome]
        if trials:
            size = 9 if outcome in ("inside the SLO", "hopeless, ended early") else 15
            data.append(
                {"type": "scatter", "mode": "markers", "name": outcome, "cliponaxis": False}
                | {"x": [trial.throughput for trial in trials]}
                | {"y": [(trial.latency or 0.0) / 1000 for trial in trials]}
                | {"customdata": [plain(f"trial {trial.number}: {trial.setting}") for trial in trials]}
                | {"marker": {"color": color_of_series(color), "symbol": symbol, "size": size}}
                | {"hovertemplate": "%{customdata}<br>%{x:,.1f} requests/s, %{y:,.4r} ms<extra></extra>"}
            )
    most = max(trial.throughput for trial in shown)
    latencies = [(trial.latency or 0.0) / 1000 for trial in shown]
    data += slo_lines([slo], [{"x": [0.0, most]}], latencies)
    return Figure(
        name=name,
        title="Trials",
        description="Each point is a configuration on a real server: the highest throughput that it gave inside the "
        "objective, and the latency there. Trials that gave none stand in the table only.",
        data=tuple(data),
        layout=layout(
            420,
            xaxis=axis("requests per second"),
            yaxis=latency_axis(f"p{slo.percentile:g}, ms", latencies),
        ),
    )


def trials_table(record: TuningRecord) -> Table:
    """Every trial, the best first, below what is in use."""
    trials = sorted(
        record.trials, key=lambda trial: (trial.number != _IN_USE, trial.status != "measured", -trial.throughput)
    )
    rows: list[tuple[Cell, ...]] = [
        (
            _trial_name(record, trial.number),
            str(trial.setting),
            as_rate(trial.throughput or None),
            str(trial.concurrency or NOTHING),
            as_milliseconds(trial.latency),
            trial.status + (f": {trial.reason}" if trial.reason else ""),
            f"{trial.seconds:,.0f}",
        )
        for trial in trials
    ]
    percentile = record.slo.partition("=")[0]
    needed = samples_needed(Slo.parse(record.slo).percentile)
    few = any(trial.answers is not None and trial.answers < needed for trial in trials)
    estimate = f", an estimate where fewer than the {needed:,} answers that {percentile} takes came" if few else ""
    return Table(
        caption=f"Trials of {record.model} version {record.model_version} for {record.slo}: {len(record.trials)} of a "
        f"space of {record.space} settings, searched with {record.search}; latency in ms{estimate}",
        columns=(
            *(Column("trial", "name"), Column("setting", "words"), Column("requests/s"), Column("in flight", spare=1)),
            *(Column(percentile), Column("outcome", "words", spare=2), Column("took, s", spare=3)),
        ),
        rows=tuple(rows),
        marked=frozenset(number for number, trial in enumerate(trials) if trial.number == record.winner),
    )


def rounds_table(record: TuningRecord) -> Table | None:
    """The interleaved rounds that decided; None where there were none."""
    rounds = sorted({played.round for played in record.rounds})
    if not rounds:
        return None
    finalists = list(dict.fromkeys(played.trial for played in record.rounds))
    rows = []
    for trial in finalists:
        played = {one.round: one for one in record.rounds if one.trial == trial}
        cells = [
            as_rate(one.throughput) + ("" if one.kept else " (missed)") if (one := played.get(number)) else NOTHING
            for number in rounds
        ]
        in_flight = next(iter(played.values())).concurrency
        rows.append((_trial_name(record, trial), str(in_flight or NOTHING), *cells))
    return Table(
        caption="The best trials and the configuration in use, measured in turn: requests/s in each round",
        columns=(
            *(Column("trial", "name"), Column("in flight", spare=1)),
            *(Column(f"round {number + 1}", spare=number + 2) for number in rounds),
        ),
        rows=tuple(rows),
        marked=frozenset(number for number, trial in enumerate(finalists) if trial == record.winner),
    )


def _outcome(record: TuningRecord, trial: TrialRecord) -> str:
    if trial.number == record.winner:
        return "winner"
    if trial.number == _IN_USE:
        return "in use"
    return "inside the SLO" if trial.status == "measured" else "hopeless, ended early"


def _trial_name(record: TuningRecord, number: int) -> str:
    if number == _IN_USE:
        return "in use"
    return f"{number} (winner)" if number == record.winner else str(number)
