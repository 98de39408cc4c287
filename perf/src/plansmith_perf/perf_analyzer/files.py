"""The files of perf_analyzer: inputs that it reads, figures and times of requests that it writes."""

from __future__ import annotations

import base64
import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ValidationError

from plansmith_client.inputs.validation import check_inputs
from plansmith_client.protocol.codecs import binary_from_array
from plansmith_perf.errors import LoadTestMisconfigured, PerfError
from plansmith_perf.load.analysis import Records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_client import Model
    from plansmith_client.protocol.operations import Tensor
    from plansmith_perf.load.requests import CheckedRequest

__all__ = ["PERCENTILES", "PerfAnalyzerReport", "RequestTimes", "Window", "read_report", "write_inputs"]

# Those that its CSV has.
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class RequestTimes:
    """When each request was sent and answered.

    Attributes:
        records: nanoseconds from the beginning of the first window; when a request was due it does not tell.
        seconds: length of the windows together.
    """

    records: Records
    seconds: float


@dataclass(frozen=True)
class Window:
    """What perf_analyzer said of one of its windows.

    Attributes:
        rows_per_second: 0 where nothing was answered.
        mean_latency: microseconds; None where nothing was answered.
    """

    rows_per_second: float
    mean_latency: float | None


@dataclass(frozen=True)
class PerfAnalyzerReport:
    """What perf_analyzer has measured.

    Attributes:
        rows_per_second: as it counted them; it calls them inferences.
        latency: microseconds by per cent; empty where it did not settle.
        mean_latency: microseconds; None where nothing was answered.
        times: of each request, where it was asked for them.
        windows: all that it measured, in order.
        settled: whether it found as many in a row with answers as it wants.
    """

    rows_per_second: float
    latency: dict[int, float]
    mean_latency: float | None
    times: RequestTimes | None
    windows: tuple[Window, ...]
    settled: bool = True

    @classmethod
    def of_windows(cls, windows: Sequence[Window]) -> PerfAnalyzerReport:
        """What there is to know where it did not settle: it writes no files then."""
        rates = [window.rows_per_second for window in windows]
        answered = sum(rates)
        total = sum(window.rows_per_second * window.mean_latency for window in windows if window.mean_latency)
        return cls(
            rows_per_second=answered / len(rates) if rates else 0.0,
            latency={},
            mean_latency=total / answered if answered else None,
            times=None,
            windows=tuple(windows),
            settled=False,
        )


class _Request(BaseModel):
    timestamp: int
    response_timestamps: list[int]


class _Experiment(BaseModel):
    requests: list[_Request]
    window_boundaries: list[int]


class _Export(BaseModel):
    experiments: list[_Experiment]


# Together the mean latency of a request.
_PARTS = (
    "Client Send",
    "Network+Server Send/Recv",
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
    "Client Recv",
)


def read_report(report: Path, export: Path | None, windows: Sequence[Window]) -> PerfAnalyzerReport:
    """Read what perf_analyzer has written about one load.

    Args:
        report: its CSV file.
        export: its `--profile-export-file`; None if it wrote none.
        windows: what it said of them.

    Raises:
        PerfError: a file is not what perf_analyzer 2.51 writes.
    """
    try:
        with report.open(encoding="utf-8", newline="") as lines:
            (row,) = csv.DictReader(lines)
        return PerfAnalyzerReport(
            rows_per_second=float(row["Inferences/Second"]),
            latency={percent: float(row[f"p{percent} latency"]) for percent in PERCENTILES},
            mean_latency=sum(float(row[part]) for part in _PARTS if part in row),
            times=_times(export) if export is not None else None,
            windows=tuple(windows),
        )
    except (KeyError, ValueError, IndexError, ValidationError) as error:
        raise PerfError(f"perf_analyzer wrote a report of another form: {error}") from error


def _times(export: Path) -> RequestTimes:
    (experiment,) = _Export.model_validate_json(export.read_bytes()).experiments
    answered = [request for request in experiment.requests if request.response_timestamps]
    begin, end = experiment.window_boundaries[0], experiment.window_boundaries[-1]
    sent = np.array([request.timestamp for request in answered], np.int64) - begin
    done = np.array([request.response_timestamps[-1] for request in answered], np.int64) - begin
    return RequestTimes(Records(sent, sent, done, np.ones(len(sent), np.bool_)), (end - begin) / 1e9)


def write_inputs(file: Path, model: Model, requests: Sequence[CheckedRequest]) -> None:
    """Write the rows of some requests as JSON, with exact values.

    Raises:
        LoadTestMisconfigured: an input has text that is not UTF-8.
        plansmith_client.InvalidInput: a request does not fit the model.
    """
    batched = bool(model.metadata.max_batch_size)
    steps = []
    for request in requests:
        tensors = check_inputs(model.metadata, request.inputs)
        rows = len(tensors[0].array) if batched else 1
        # perf_analyzer makes batches itself, from one row after the other.
        steps += [{t.name: _content(t, row if batched else None) for t in tensors} for row in range(rows)]
    file.write_text(json.dumps({"data": steps}), encoding="utf-8")


def _content(tensor: Tensor, row: int | None) -> dict[str, Any]:
    array = tensor.array if row is None else tensor.array[row]
    # A scalar has the shape [1] in perf_analyzer's files.
    shape = list(array.shape) or [1]
    if array.dtype == object:
        try:
            return {"content": [bytes(value).decode() for value in array.reshape(-1)], "shape": shape}
        except UnicodeDecodeError:
            raise LoadTestMisconfigured(
                f"input {tensor.name!r} has bytes that are not UTF-8, which perf_analyzer's files cannot hold: "
                "measure with --tool plansmith"
            ) from None
    return {"content": {"b64": base64.b64encode(binary_from_array(array)).decode("ascii")}, "shape": shape}
