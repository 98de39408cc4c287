"""The result of a load test on the terminal."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.console import Console

from plansmith_perf.results.documents import ClosedLoop, LoadTestResult, Measurement, OpenLoop, by_load
from plansmith_perf.results.terminal_tables import Column, print_table, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["name_of", "show_result"]


def name_of(load: ClosedLoop | OpenLoop) -> str:
    """A load in a few words."""
    return f"{load.concurrency} in flight" if isinstance(load, ClosedLoop) else f"{load.rate:g}/s, {load.arrivals}"


def show_result(result: LoadTestResult, percentiles: Sequence[float]) -> None:
    """Print a row for each load, with the medians of its rounds, and below them what to know before trusting it."""
    title = f"{result.model} version {result.model_version}, {result.protocol}, batch {result.batch_size}"
    caption = "latency, queue and compute in milliseconds; server and client: CPU, 100 % is one core"
    loads = by_load(result.measurements)
    rounds = max(map(len, loads.values()), default=1)
    if rounds > 1 and result.slo is None:
        caption = f"medians of {rounds} rounds; {caption}"
    edges = (min(percentiles), max(percentiles))
    columns = [
        Column("load", "name"),
        Column("answers/s"),
        *(Column(f"p{p:g}", spare=0 if p == edges[1] else 1 if p == edges[0] else 2) for p in percentiles),
        *(Column("queue", spare=3), Column("compute", spare=4)),
        *(Column("server", spare=6), Column("client", spare=5), Column("errors")),
    ]
    rows = loads.values() if result.slo is None else [[measured] for measured in result.measurements]
    console = Console()
    cells = [[name_of(measurements[0].load), *_cells(measurements, percentiles)] for measurements in rows]
    print_table(console, columns, cells, title=title, caption=caption)
    if result.slo is not None and result.slo.rate is not None:
        console.print(f"{result.slo.slo} is kept up to {result.slo.rate:,.1f} requests/s", soft_wrap=True)
    for measurements in loads.values():
        for number, measured in enumerate(measurements, 1):
            where = name_of(measured.load) + (f", round {number}" if len(measurements) > 1 else "")
            messages = [f"{count} x {message}" for message, count in measured.error_messages.items()]
            for line in (*measured.notes, *messages):
                console.print(visible(f"{where}: {line}"), soft_wrap=True, markup=False, highlight=False)


def _cells(measurements: Sequence[Measurement], percentiles: Sequence[float]) -> list[str]:
    def median(value: Callable[[Measurement], float | None], form: str, scale: float = 1.0) -> str:
        values = [found for measured in measurements if (found := value(measured)) is not None]
        return format(statistics.median(values) / scale, form) if values else "-"

    def percentile(percent: float) -> Callable[[Measurement], float | None]:
        return lambda m: m.latency.percentiles.get(f"{percent:g}") if m.latency else None

    return [
        median(lambda m: m.throughput, ",.1f"),
        *(median(percentile(percent), ".2f", 1000) for percent in percentiles),
        median(lambda m: m.server_side.queue if m.server_side else None, ".2f", 1000),
        median(lambda m: m.server_side.compute_infer if m.server_side else None, ".2f", 1000),
        median(lambda m: m.server_usage.cpu_percent if m.server_usage else None, ".0f") + " %",
        median(lambda m: m.client_usage.cpu_percent, ".0f") + " %",
        median(lambda m: m.error_rate, ".2%"),
    ]
