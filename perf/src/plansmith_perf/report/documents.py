"""Reads what a report is made of, whichever command wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from plansmith_perf.comparing.results import Comparison
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.latencies import check_histogram
from plansmith_perf.results.documents import LoadTestResult, Measurement
from plansmith_perf.results.documents import read_document as _read
from plansmith_perf.slo import Slo
from plansmith_perf.tuning.records import TuningRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Document", "name_documents", "read_document"]

Document: TypeAlias = LoadTestResult | Comparison | TuningRecord
"""What a report is made of: the result of a load test, of a comparison or of tuning."""


def read_document(path: Path) -> Document:
    """Read a result of `plansmith bench`, `plansmith bench compare`, `plansmith tune --json` or Locust.

    A manifest of a tuned model version is read as the tuning run that it carries.

    Raises:
        LoadTestMisconfigured: the file does not exist, or is not one of these.
    """
    document = _read(path, _parse, "a result of a load test, a comparison or a tuning run that this version reads")
    try:
        _check(document)
    except LoadTestMisconfigured as error:
        raise LoadTestMisconfigured(f"{path}: {error}") from error
    return document


def name_documents(paths: Sequence[Path]) -> dict[str, Document]:
    """Read several files; each is a series, named after its file, and after as many folders as tell them apart.

    Raises:
        LoadTestMisconfigured: as `read_document`, or a file is given twice.
    """
    absolute = [path.absolute() for path in paths]
    if twice := next((path for number, path in enumerate(absolute) if path in absolute[:number]), None):
        raise LoadTestMisconfigured(f"{twice} is given twice: each result is one series of the report")
    depth = 1
    while True:
        names = ["/".join((*path.parts[-depth:-1], path.stem)) for path in absolute]
        if len(set(names)) == len(names):
            return dict(zip(names, map(read_document, paths), strict=True))
        if depth > max(len(path.parts) for path in absolute):
            # The endings alone differ.
            return dict(zip(map(str, paths), map(read_document, paths), strict=True))
        depth += 1


def _parse(found: Any) -> Document:
    if not isinstance(found, dict):
        message = "it does not hold a JSON object; give a file that --output or --json wrote"
        raise ValueError(message)  # noqa: TRY004 - as for what is no JSON
    if found.get("kind") == "comparison":
        return Comparison.model_validate(found)
    if isinstance(found.get("tuning"), dict):
        return TuningRecord.model_validate(found["tuning"])
    if "trials" in found and "verdict" in found:
        return TuningRecord.model_validate(found)
    return LoadTestResult.model_validate(found)


def _check(document: Document) -> None:
    if isinstance(document, TuningRecord):
        Slo.parse(document.slo)
        return
    if isinstance(document, LoadTestResult) and document.slo is not None:
        Slo.parse(document.slo.slo)
    for measured in _measurements(document):
        if measured.latency is not None:
            check_histogram(measured.latency)


def _measurements(document: LoadTestResult | Comparison) -> Iterator[Measurement]:
    if isinstance(document, LoadTestResult):
        yield from document.measurements
    else:
        for peer in document.peers:
            yield from peer.rounds
