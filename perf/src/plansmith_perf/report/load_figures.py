"""The plots of load tests."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from plansmith_perf.load.latencies import latency_at, percentile_curve, too_few_answers
from plansmith_perf.report.figures import (
    DASHES,
    SYMBOLS,
    Figure,
    axis,
    color_of_load,
    color_of_series,
    latency_axis,
    layout,
    plain,
)
from plansmith_perf.results.documents import ClosedLoop, by_load
from plansmith_perf.results.formatting import as_given, load_name
from plansmith_perf.slo import Slo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plansmith_perf.results.documents import LoadTestResult, Measurement, OpenLoop

__all__ = ["groups_of", "percentile_figure", "slo_lines", "throughput_figure"]

# Percentile, dash of its line, and what makes its points hollow.
_CURVES = ((99.0, "solid", ""), (50.0, "dash", "-open"))
_MANY_POINTS = 9


def groups_of(result: LoadTestResult) -> list[list[Measurement]]:
    """The measurements, those of one load together: closed loops first, then by how much load it is."""
    groups = by_load(result.measurements)
    return [groups[load] for load in sorted(groups, key=_order)]


def throughput_figure(results: Mapping[str, LoadTestResult]) -> Figure:
    """Latency against throughput: a point is a measurement, a line joins the medians of the loads."""
    data: list[dict[str, Any]] = []
    seen: list[float] = []
    for number, (name, result) in enumerate(results.items()):
        groups = groups_of(result)
        numbered = len(results) == 1 and len(result.measurements) <= _MANY_POINTS
        color = color_of_series(number)
        for percent, dash, hollow in _CURVES:
            label = f"p{percent:g}" if len(results) == 1 else f"{plain(name)}, p{percent:g}"
            trace: dict[str, Any] = {"type": "scatter", "name": label, "legendgroup": f"{number}-{percent:g}"}
            line = {"mode": "lines", "line": {"color": color, "dash": dash, "width": 2}, "hoverinfo": "skip"}
            data.append(trace | line | _medians(groups, percent))
            dots = _dots(groups, percent)
            seen += dots["y"]
            marker = {"symbol": SYMBOLS[number % len(SYMBOLS)] + hollow, "size": 8, "color": color}
            mode = "markers+text" if numbered and not hollow else "markers"
            hover = f"%{{customdata}}<br>%{{x:,.1f}} answers/s<br>p{percent:g}: %{{y:,.4r}} ms<extra></extra>"
            data.append(
                trace
                | {"mode": mode, "marker": marker, "textposition": "top center", "cliponaxis": False}
                | {"showlegend": False, "hovertemplate": hover, **dots}
            )
    data += slo_lines([Slo.parse(result.slo.slo) for result in results.values() if result.slo is not None], data, seen)
    return Figure(
        name="throughput",
        title="Latency and throughput",
        description="Each point is a measurement: how many right answers came per second, and how long they took; "
        "the lines join the loads in their order. Where a line turns upwards the server is full: more load only adds "
        "waiting. A p99 of fewer than 1,000 answers is the luck of a few requests.",
        data=tuple(data),
        layout=layout(420, xaxis=axis("answers per second"), yaxis=latency_axis("latency, ms", seen)),
    )


def percentile_figure(results: Mapping[str, LoadTestResult]) -> Figure:
    """Latency against the percentile, on an axis that gives each further nine the same room."""
    data: list[dict[str, Any]] = []
    for number, (name, result) in enumerate(results.items()):
        groups = [group for group in groups_of(result) if any(measured.latency for measured in group)]
        best = max(groups, key=_throughput, default=None)
        for place, group in enumerate(groups):
            shares, values = percentile_curve([measured.latency for measured in group if measured.latency])
            load = load_name(group[0].load)
            alone = len(results) == 1
            color = color_of_load(place, len(groups)) if alone else color_of_series(number)
            data.append(
                {"type": "scatter", "mode": "lines", "name": load if alone else f"{plain(name)}, {load}"}
                | {"line": {"color": color, "width": 2, "dash": DASHES[(place if alone else number) % len(DASHES)]}}
                | {"x": [1 / (1 - share) for share in shares], "y": [value / 1000 for value in values]}
                | {"customdata": [100 * share for share in shares], "cliponaxis": False}
                | {"hovertemplate": "p%{customdata:.6~g}: %{y:,.4r} ms<extra>%{fullData.name}</extra>"}
                | ({} if alone or group is best else {"visible": "legendonly"})
            )
    most = max((trace["x"][-1] for trace in data if trace["x"]), default=100.0)
    limits = [Slo.parse(result.slo.slo) for result in results.values() if result.slo is not None]
    data += slo_lines(limits, [{"x": [1.0, most]}], [])
    nines = [2.0, *(10.0**power for power in range(1, 8) if 10**power <= most * 10)]
    ticks = {"tickvals": [1.0, *nines], "ticktext": [f"{100 * (1 - 1 / tick):.7g} %" for tick in [1.0, *nines]]}
    some = (
        "" if len(results) == 1 else " Each result is shown at its highest throughput; the legend adds its other loads."
    )
    seen = [value for trace in data for value in trace.get("y", ())]
    return Figure(
        name="percentiles",
        title="Latency by percentile",
        description="How long the answers took, from the fastest on the left to the slowest on the right; each step of "
        f"the axis from 90 % on leaves a tenth of the answers before beyond it, a line's end a single one.{some}",
        data=tuple(data),
        layout=layout(
            420,
            xaxis={"title": {"text": "share of the answers"}, "type": "log", "automargin": True, **ticks},
            yaxis=latency_axis("latency, ms", seen),
        ),
    )


def _order(load: ClosedLoop | OpenLoop) -> tuple[int, float, str]:
    return (0, load.concurrency, "") if isinstance(load, ClosedLoop) else (1, load.rate, load.arrivals)


def _throughput(group: Sequence[Measurement]) -> float:
    return statistics.median(measured.throughput for measured in group)


def _dots(groups: Sequence[Sequence[Measurement]], percent: float) -> dict[str, list[Any]]:
    x, y, text, custom = [], [], [], []
    for group in groups:
        for measured in group:
            latency = latency_at(measured.latency, percent)
            if latency is not None:
                x.append(measured.throughput)
                y.append(latency / 1000)
                load = measured.load
                text.append(f"{load.concurrency}" if isinstance(load, ClosedLoop) else f"{as_given(load.rate)}/s")
                few = too_few_answers([measured.latency], [percent])
                custom.append(
                    load_name(load) + ("" if measured.complete else ", partial") + (f", {few}" if few else "")
                )
    return {"x": x, "y": y, "text": text, "customdata": custom}


def _medians(groups: Sequence[Sequence[Measurement]], percent: float) -> dict[str, list[float | None]]:
    x: list[float | None] = []
    y: list[float | None] = []
    kind = ""
    for group in groups:
        latencies = [latency for measured in group if (latency := latency_at(measured.latency, percent)) is not None]
        if not latencies:
            continue
        if kind and kind != group[0].load.kind:
            # A closed loop's latencies are another quantity: no line leads from one to the other.
            x.append(None)
            y.append(None)
        kind = group[0].load.kind
        x.append(_throughput(group))
        y.append(statistics.median(latencies) / 1000)
    return {"x": x, "y": y}


def slo_lines(limits: Sequence[Slo], traces: Sequence[dict[str, Any]], seen: list[float]) -> list[dict[str, Any]]:
    """Dashed lines at the limits of service level objectives, across traces; the limits are added to what is seen."""
    across = [value for trace in traces for value in trace["x"] if value is not None]
    lines = []
    for slo in dict.fromkeys(limits):
        seen.append(slo.limit / 1000)
        line = {"color": "var(--limit)", "width": 2, "dash": "dash"}
        lines.append(
            {"type": "scatter", "mode": "lines", "name": f"SLO {plain(slo.text)}", "line": line, "hoverinfo": "skip"}
            | {"x": [min(across, default=0.0), max(across, default=1.0)], "y": [slo.limit / 1000] * 2}
        )
    return lines
