"""Where and how it was measured, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.results.documents import LoadTestResult
from plansmith_perf.results.formatting import as_memory, as_time
from plansmith_perf.results.tables import NOTHING, Column, Table
from plansmith_perf.tuning.records import TuningRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_perf.report.documents import Document

__all__ = ["configuration_table", "differences", "environment_table", "packages_table"]

# What makes two results measurements of different things.
_MATTERS = (
    *("model", "served", "batch of", "protocol", "inputs", "processor", "cores", "memory", "system", "server"),
    *("tool", "load generators"),
)


def environment_table(documents: Mapping[str, Document]) -> Table:
    """The machines; a row that differs is marked."""
    return _side_by_side("Environment", {name: _environment(document) for name, document in documents.items()})


def configuration_table(documents: Mapping[str, Document]) -> Table:
    """How it was measured; a row that differs is marked."""
    return _side_by_side("Configuration", {name: _configuration(document) for name, document in documents.items()})


def packages_table(documents: Mapping[str, Document]) -> Table:
    """The versions of the packages."""
    return _side_by_side("Packages", {name: document.environment.packages for name, document in documents.items()})


def differences(documents: Mapping[str, Document]) -> list[str]:
    """What differs between the results, of that which decides whether they can be compared."""
    all_properties = [_environment(document) | _configuration(document) for document in documents.values()]
    return [name for name in _MATTERS if len({properties.get(name) for properties in all_properties} - {None, ""}) > 1]


def _side_by_side(caption: str, columns: Mapping[str, Mapping[str, str]]) -> Table:
    properties = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = []
    marked = set()
    for number, name in enumerate(properties):
        cells = tuple(column.get(name) or NOTHING for column in columns.values())
        differs = len(set(cells)) > 1
        if differs:
            marked.add(number)
        rows.append((f"{name} (differs)" if differs else name, *cells))
    headings = (Column("", "words"), *(Column(name, "words") for name in columns))
    return Table(caption, headings, tuple(rows), frozenset(marked))


def _environment(document: Document) -> dict[str, str]:
    environment = document.environment
    return {
        "processor": environment.processor,
        "cores": str(environment.cores),
        "memory": as_memory(environment.memory),
        "system": environment.system,
        "Python": environment.python,
        "server": environment.server,
    }


def _configuration(document: Document) -> dict[str, str]:
    common = {
        "created": as_time(document.created),
        "model": document.model,
        "version": str(document.model_version),
        "batch of": f"{document.batch_size:,}",
    }
    if isinstance(document, LoadTestResult):
        return common | {
            "tool": document.tool,
            "served": document.served,
            "protocol": document.protocol,
            "inputs": document.inputs,
            "expected answers": document.expected_answers,
            "load generators": str(document.workers),
            "length of a measurement": _lengths([measured.seconds for measured in document.measurements]),
            "warm-up before each": _lengths([measured.warmup_seconds for measured in document.measurements]),
        }
    length = {"length of a measurement": f"{document.seconds:g} s"}
    if isinstance(document, TuningRecord):
        return (
            common
            | {"protocol": document.protocol, "inputs": document.inputs, "objective": document.slo}
            | {"configuration": document.config, "search": f"{document.search}, seed {document.seed}"}
            | length
        )
    return common | {"requests in flight": str(document.concurrency), "baseline": document.baseline} | length


def _lengths(seconds: list[float]) -> str:
    return ", ".join(f"{length:g} s" for length in dict.fromkeys(round(length, 2) for length in seconds)) or NOTHING
