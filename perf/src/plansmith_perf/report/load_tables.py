"""The tables of load tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.report.blocks import Cell, Column, Table
from plansmith_perf.report.formatting import (
    NOTHING,
    as_cpu,
    as_memory,
    as_milliseconds,
    as_rate,
    as_share,
    load_name,
)
from plansmith_perf.report.latencies import settled_latency, too_few_answers
from plansmith_perf.report.run_figures import PARTS, parts_of

if TYPE_CHECKING:
    from plansmith_perf.results.documents import LoadTestResult, Measurement

__all__ = ["errors_table", "loads_table", "parts_table"]


def loads_table(name: str, result: LoadTestResult) -> Table:
    """Every measurement."""
    known = {percent for one in result.measurements if one.latency for percent in one.latency.percentiles}
    percents = sorted(map(float, known)) or [50.0, 99.0]
    rows_too = result.batch_size > 1
    rows = tuple(_row(measured, percents, rows_too=rows_too) for measured in result.measurements)
    return Table(
        caption=f"{name}: {result.model} version {result.model_version or 'of the server'}, {result.protocol}, "
        f"{result.batch_size} rows a request; latencies in ms; CPU: 100 % is one core",
        columns=(
            *(Column("load", "words"), Column("answers/s")),
            *((Column("rows/s"),) if rows_too else ()),
            *(Column(f"p{percent:g}") for percent in percents),
            *(Column("max"), Column("errors"), Column("server CPU"), Column("client CPU"), Column("server memory")),
            *(Column("seconds"), Column("remarks", "words")),
        ),
        rows=rows,
        marked=frozenset(_best(result)),
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


def _row(measured: Measurement, percents: list[float], *, rows_too: bool) -> tuple[Cell, ...]:
    server = measured.server_usage
    remarks = [] if measured.complete else ["partial"]
    if measured.stability is not None and not measured.stability.stable:
        remarks.append("not stable")
    few = too_few_answers([measured.latency], percents)
    if few:
        remarks.append(few)
    return (
        load_name(measured.load),
        as_rate(measured.throughput),
        *((as_rate(measured.rows_per_second),) if rows_too else ()),
        *(as_milliseconds(settled_latency(measured.latency, percent)) for percent in percents),
        as_milliseconds(measured.latency.maximum if measured.latency else None),
        as_share(measured.error_rate),
        as_cpu(server.cpu_percent if server else None),
        as_cpu(measured.client_usage.cpu_percent),
        as_memory(server.memory if server else None),
        f"{measured.seconds:,.3g}",
        ", ".join(remarks),
    )


def _best(result: LoadTestResult) -> set[int]:
    rates = [measured.throughput for measured in result.measurements]
    return {rates.index(max(rates))} if any(rates) else set()
