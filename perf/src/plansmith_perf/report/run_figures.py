"""The plots of one load test: what happened second by second, and where the time went."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from plansmith_perf.report.figures import Figure, axis, color_of_series, latency_axis, layout, plain
from plansmith_perf.report.load_figures import groups_of
from plansmith_perf.results.formatting import as_given, as_milliseconds, load_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.results.documents import LoadTestResult, Measurement

__all__ = ["PARTS", "breakdown_figure", "parts_of", "timeline_figure"]

# What a mean latency consists of, in the order in which it happens.
PARTS = ("late to be sent", "queue", "compute input", "compute", "compute output", "transport and client")


def timeline_figure(name: str, title: str, result: LoadTestResult) -> Figure | None:
    """Answers and latencies of each second, one measurement after the other; None where there are no seconds."""
    x: list[float | None] = []
    rates: list[float | None] = []
    failures: list[float | None] = []
    latencies: dict[str, list[float | None]] = {"median": [], "p99": []}
    labels: list[str] = []
    edges, middles, names = [0.0], [], []
    for measured in result.measurements:
        start = edges[-1]
        for second in measured.timeline:
            # The last second may be a part of one.
            width = min(1.0, measured.seconds - second.second)
            if width <= 0:
                continue
            x.append(start + second.second + width / 2)
            rates.append(second.answers / width)
            failures.append(second.errors / width)
            latencies["median"].append(_milliseconds(second.median_latency))
            latencies["p99"].append(_milliseconds(second.p99_latency))
            labels.append(load_name(measured.load))
        for values in (x, rates, failures, *latencies.values()):
            values.append(None)
        labels.append("")
        edges.append(start + measured.seconds)
        middles.append(start + measured.seconds / 2)
        names.append(_short(measured) if len(result.measurements) > 1 else load_name(measured.load))
    if not any(value is not None for value in x):
        return None
    shared: dict[str, Any] = {"type": "scatter", "x": x, "customdata": labels, "connectgaps": False}
    answers, failed = color_of_series(0), color_of_series(1)
    data = [
        shared | _line("answers/s", rates, answers, "solid") | {"xaxis": "x", "yaxis": "y"},
        shared | _line("p99", latencies["p99"], color_of_series(2), "solid") | {"xaxis": "x", "yaxis": "y2"},
        shared | _line("median", latencies["median"], color_of_series(2), "dash") | {"xaxis": "x", "yaxis": "y2"},
    ]
    if any(failures):
        data.insert(1, shared | _line("errors/s", failures, failed, "dot") | {"xaxis": "x", "yaxis": "y"})
    shown = [value for values in latencies.values() for value in values if value is not None]
    lines = [
        {"type": "line", "xref": "x", "yref": "paper", "x0": edge, "x1": edge, "y0": 0, "y1": 1}
        | {"line": {"color": "var(--grid)", "width": 1, "dash": "dot"}}
        for edge in edges[1:-1]
    ]
    return Figure(
        name=name,
        title=title,
        description="Every second of the measurements, one after the other, without the warm-ups between them: the "
        "answers per second above, their latency below. A steady server gives level lines within each load. "
        "The p99 of a second with fewer than 1,000 answers is "
        "the luck of a few requests.",
        data=tuple(data),
        layout=layout(
            460,
            shapes=lines,
            xaxis={"title": {"text": _load_title(result)}, "tickvals": middles, "ticktext": names}
            | {"range": [0, edges[-1]], "showgrid": False, "automargin": True, "anchor": "y2"},
            yaxis=axis("per second", domain=[0.56, 1]),
            yaxis2=latency_axis("latency, ms", shown, domain=[0, 0.44]),
        ),
    )


def breakdown_figure(name: str, title: str, result: LoadTestResult) -> Figure | None:
    """What the mean latency of each load consists of; None where the server's statistics are not known."""
    rows = []
    for group in groups_of(result):
        known = [(measured, parts) for measured in group if (parts := parts_of(measured)) is not None]
        if known:
            means = [statistics.mean(parts[place] for _, parts in known) for place in range(len(PARTS))]
            rows.append((load_name(group[0].load), means))
    if not rows:
        return None
    labels = [f"{load}<br>{as_milliseconds(sum(means))} ms" for load, means in rows]
    data = []
    for place, part in enumerate(PARTS):
        values = [means[place] / 1000 for _, means in rows]
        if any(values):
            shares = [100 * means[place] / max(sum(means), 1e-9) for _, means in rows]
            data.append(
                {"type": "bar", "orientation": "h", "name": part, "y": labels, "x": shares, "customdata": values}
                | {"marker": {"color": f"var(--part-{place})", "line": {"color": "var(--surface)", "width": 1}}}
                | {"hovertemplate": "%{customdata:,.4r} ms, %{x:.1f} %<extra>%{fullData.name}</extra>"}
            )
    return Figure(
        name=name,
        title=title,
        description="What the mean latency of each load consists of. Queue and compute are Triton's own statistics; "
        "transport and client is the rest of what the client saw.",
        data=tuple(data),
        layout=layout(
            150 + 46 * len(rows),
            barmode="stack",
            bargap=0.3,
            xaxis={"title": {"text": "share of the mean latency, %"}, "range": [0, 100], "automargin": True},
            yaxis={"autorange": "reversed", "automargin": True, "showgrid": False, "type": "category"},
        ),
    )


def parts_of(measured: Measurement) -> tuple[float, ...] | None:
    """The mean latency in the order of `PARTS`, microseconds; None where the server's statistics are not known."""
    server = measured.server_side
    if measured.latency is None or server is None:
        return None
    lag = max(0.0, measured.latency.mean - measured.service.mean) if measured.service is not None else 0.0
    inside = (server.queue, server.compute_input, server.compute_infer, server.compute_output)
    return (lag, *inside, max(0.0, measured.latency.mean - lag - sum(inside)))


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


def _line(name: str, values: Sequence[float | None], color: str, dash: str) -> dict[str, Any]:
    unit = "/s" if name.endswith("/s") else " ms"
    return {
        "name": plain(name),
        "mode": "lines+markers",
        "y": list(values),
        "line": {"color": color, "width": 2, "dash": dash},
        "marker": {"color": color, "size": 4},
        "hovertemplate": "%{customdata}<br>%{y:,.4r}" + unit + "<extra>%{fullData.name}</extra>",
    }


def _short(measured: Measurement) -> str:
    load = measured.load
    mark = "" if measured.complete else "*"
    return f"{load.concurrency}{mark}" if load.kind == "closed" else f"{as_given(load.rate)}/s{mark}"


def _load_title(result: LoadTestResult) -> str:
    lengths = {round(measured.seconds, 2) for measured in result.measurements}
    each = f"{lengths.pop():g} s each" if len(lengths) == 1 else "wider where it took longer"
    return f"load: requests in flight, or per second; {each}"
