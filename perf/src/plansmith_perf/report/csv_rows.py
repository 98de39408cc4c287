"""The report as CSV: one row a measurement, or a trial of a tuning run; the columns never change their names.

Latencies are milliseconds, memory is bytes, CPU is per cent of one core, rates are per second. docs/reports.md
describes the columns.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from plansmith_perf.comparing.results import Comparison
from plansmith_perf.load.latencies import settled_latency
from plansmith_perf.results.documents import ClosedLoop, LoadTestResult
from plansmith_perf.results.tables import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_perf.report.documents import Document
    from plansmith_perf.results.documents import Measurement
    from plansmith_perf.tuning.records import TuningRecord

__all__ = ["COLUMNS", "as_csv"]

_PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)
COLUMNS = (
    *("result", "kind", "created", "model", "model_version", "protocol", "batch_size", "tool"),
    *("subject", "setup", "round", "load", "concurrency", "rate", "arrivals"),
    *("seconds", "complete", "requests", "errors", "error_rate", "throughput", "rows_per_second"),
    *("latency_mean", "latency_p50", "latency_p90", "latency_p95", "latency_p99", "latency_p99_9", "latency_max"),
    *("service_mean", "dispatch_lag_mean", "queue", "compute_input", "compute", "compute_output"),
    *("server_cpu", "server_memory", "client_cpu", "client_memory", "stable"),
    *("slo", "slo_latency", "status", "remarks"),
)
# What a spreadsheet takes for a formula.
_FORMULA = ("=", "+", "-", "@")


def as_csv(documents: Mapping[str, Document]) -> str:
    """The rows of all documents below one heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for name, document in documents.items():
        common = {
            "result": name,
            "created": document.created,
            "model": document.model,
            "model_version": document.model_version,
            "batch_size": document.batch_size,
        }
        for row in _rows(document):
            writer.writerow({column: _cell(value) for column, value in (common | row).items()})
    return text.getvalue()


def _rows(document: Document) -> Iterator[dict[str, Any]]:
    if isinstance(document, LoadTestResult):
        slo = document.slo.slo if document.slo is not None else ""
        for measured in document.measurements:
            status = "measured" if measured.complete else "partial"
            yield {"kind": "load test", "tool": document.tool, "protocol": document.protocol} | _measured(measured) | {
                "slo": slo, "status": status, "remarks": "; ".join(measured.notes),
            }  # fmt: skip
    elif isinstance(document, Comparison):
        for peer in document.peers:
            about = {"kind": "comparison", "subject": peer.name, "setup": peer.setup, "status": peer.status}
            for number, measured in enumerate(peer.rounds):
                remarks = "; ".join([*([peer.reason] if peer.reason else []), *measured.notes])
                yield about | {"round": number + 1, "remarks": remarks} | _measured(measured)
            if not peer.rounds:
                yield about | {"remarks": peer.reason or ""}
    else:
        yield from _trials(document)


def _measured(measured: Measurement) -> dict[str, Any]:
    load = measured.load
    server, usage, client = measured.server_side, measured.server_usage, measured.client_usage
    latencies = {
        f"latency_p{percent:g}".replace(".", "_"): settled_latency(measured.latency, percent) for percent in _PERCENTS
    }
    latencies["latency_mean"] = measured.latency.mean if measured.latency else None
    latencies["latency_max"] = measured.latency.maximum if measured.latency else None
    latencies["service_mean"] = measured.service.mean if measured.service else None
    latencies["dispatch_lag_mean"] = measured.dispatch_lag.mean if measured.dispatch_lag else None
    if server is not None:
        latencies |= {"queue": server.queue, "compute_input": server.compute_input}
        latencies |= {"compute": server.compute_infer, "compute_output": server.compute_output}
    return {
        "load": load.kind,
        "concurrency": load.concurrency if isinstance(load, ClosedLoop) else "",
        "rate": "" if isinstance(load, ClosedLoop) else load.rate,
        "arrivals": "" if isinstance(load, ClosedLoop) else load.arrivals,
        "seconds": measured.seconds,
        "complete": measured.complete,
        "requests": measured.requests,
        "errors": measured.errors,
        "error_rate": measured.error_rate,
        "throughput": measured.throughput,
        "rows_per_second": measured.rows_per_second,
        **{column: None if value is None else value / 1000 for column, value in latencies.items()},
        "server_cpu": usage.cpu_percent if usage else None,
        "server_memory": usage.memory if usage else None,
        "client_cpu": client.cpu_percent,
        "client_memory": client.memory,
        "stable": measured.stability.stable if measured.stability else None,
    }


def _trials(record: TuningRecord) -> Iterator[dict[str, Any]]:
    for trial in record.trials:
        yield {
            "kind": "tuning",
            "protocol": record.protocol,
            "subject": "in use" if not trial.number else f"trial {trial.number}",
            "setup": str(trial.setting),
            "load": "closed",
            "concurrency": trial.concurrency or None,
            "seconds": record.seconds,
            "throughput": trial.throughput or None,
            "slo": record.slo,
            "slo_latency": None if trial.latency is None else trial.latency / 1000,
            "status": "winner" if trial.number == record.winner else trial.status,
            "remarks": trial.reason,
        }


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, str):
        shown = visible(value)
        return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown
    return value
