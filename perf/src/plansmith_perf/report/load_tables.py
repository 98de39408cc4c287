"""The tables of load tests."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from plansmith_perf.load.latencies import latency_at, settled_latency, too_few_answers
from plansmith_perf.report.run_figures import PARTS, parts_of
from plansmith_perf.results.documents import by_load
from plansmith_perf.results.formatting import (
    as_cpu,
    as_memory,
    as_milliseconds,
    as_rate,
    as_seconds,
    as_share,
    load_name,
)
from plansmith_perf.results.tables import NOTHING, Cell, Column, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from plansmith_perf.results.documents import Distribution, LoadTestResult, Measurement

__all__ = ["errors_table", "loads_table", "parts_table"]


def loads_table(name: str, result: LoadTestResult, *, in_full: bool = True) -> Table:
    """Every measurement; or a row for each load with the medians of its rounds, and estimates where answers are few."""
    known = {percent for one in result.measurements if one.latency for percent in one.latency.percentiles}
    percents = sorted(map(float, known)) or [50.0, 99.0]
    groups: Iterable[list[Measurement]] = [[measured] for measured in result.measurements]
    if not in_full and result.slo is None:
        groups = by_load(result.measurements).values()
    edges = (percents[0], percents[-1])
    spares = [0 if percent == edges[1] else 1 if percent == edges[0] else 2 for percent in percents]
    table = Table(
        caption=f"{name}: {result.model} version {result.model_version or 'of the server'}, {result.protocol}, "
        f"{result.batch_size} row{'s' * (result.batch_size != 1)} a request; latencies in ms; CPU: 100 % is one core",
        columns=(
            *(Column("load", "name"), Column("answers/s"), Column("rows/s", spare=7)),
            *(Column(f"p{percent:g}", spare=spare) for percent, spare in zip(percents, spares, strict=True)),
            *(Column("max"), Column("queue", spare=3), Column("compute", spare=4), Column("errors")),
            *(Column("server CPU", spare=6), Column("client CPU", spare=5), Column("server memory")),
            *(Column("seconds"), Column("remarks", "words")),
        ),
        rows=tuple(_row(group, percents, latency_at if not in_full else settled_latency) for group in groups),
        marked=frozenset(_best(result)),
    )
    unasked = () if result.batch_size > 1 else ("rows/s",)
    return table.without(
        *unasked, *(("queue", "compute") if in_full else ("max", "server memory", "seconds", "remarks"))
    )


def parts_table(name: str, result: LoadTestResult) -> Table | None:
    """What the mean latencies consist of; None where the server's statistics are not known."""
    rows: list[tuple[Cell, ...]] = []
    for measured in result.measurements:
        parts = parts_of(measured)
        server = measured.server_side
        if parts is not None and server is not None:
            batch = f"{server.requests / server.executions:.1f}" if server.executions else NOTHING
            cells = (as_milliseconds(sum(parts)), *map(as_milliseconds, parts), batch)
            rows.append((load_name(measured.load), *cells))
    if not rows:
        return None
    return Table(
        caption=f"{name}: mean latency and its parts, ms; requests that the server ran together",
        columns=(
            *(Column("load", "words"), Column("mean"), *(Column(part) for part in PARTS)),
            Column("requests an execution"),
        ),
        rows=tuple(rows),
    )


def errors_table(name: str, result: LoadTestResult) -> Table | None:
    """What failed, and how often; None where nothing did."""
    rows = tuple(
        (load_name(measured.load), f"{count:,}", message)
        for measured in result.measurements
        for message, count in sorted(measured.error_messages.items(), key=lambda item: -item[1])
    )
    if not rows:
        return None
    columns = (Column("load", "words"), Column("times"), Column("message", "words"))
    return Table(caption=f"{name}: errors", columns=columns, rows=rows)


def _row(
    group: Sequence[Measurement],
    percents: Sequence[float],
    latency: Callable[[Distribution | None, float], float | None],
) -> tuple[Cell, ...]:
    memory = _median(one.server_usage.memory if one.server_usage else None for one in group)
    return (
        load_name(group[0].load),
        as_rate(_median(one.throughput for one in group)),
        as_rate(_median(one.rows_per_second for one in group)),
        *(as_milliseconds(_median(latency(one.latency, percent) for one in group)) for percent in percents),
        as_milliseconds(_median(one.latency.maximum if one.latency else None for one in group)),
        as_milliseconds(_median(one.server_side.queue if one.server_side else None for one in group)),
        as_milliseconds(_median(one.server_side.compute_infer if one.server_side else None for one in group)),
        as_share(_median(one.error_rate for one in group) or 0.0),
        as_cpu(_median(one.server_usage.cpu_percent if one.server_usage else None for one in group)),
        as_cpu(_median(one.client_usage.cpu_percent for one in group)),
        as_memory(None if memory is None else round(memory)),
        as_seconds(_median(one.seconds for one in group)),
        _remarks(group[0], percents),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _remarks(measured: Measurement, percents: Sequence[float]) -> str:
    remarks = [] if measured.complete else ["partial"]
    if measured.stability is not None and not measured.stability.stable:
        remarks.append("not stable")
    few = too_few_answers([measured.latency], percents)
    return ", ".join([*remarks, *([few] if few else [])])


def _best(result: LoadTestResult) -> set[int]:
    rates = [measured.throughput for measured in result.measurements]
    return {rates.index(max(rates))} if any(rates) else set()
