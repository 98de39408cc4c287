"""The load generators of `plansmith bench`: plansmith's own worker processes, and NVIDIA's perf_analyzer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_client.transports.addresses import Address
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.encoded_requests import write_requests
from plansmith_perf.load.measuring import Target, measure
from plansmith_perf.perf_analyzer.files import PERCENTILES, write_inputs
from plansmith_perf.perf_analyzer.installation import install_perf_analyzer
from plansmith_perf.perf_analyzer.measuring import measure_with_perf_analyzer
from plansmith_perf.perf_analyzer.program import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from plansmith_client import Model
    from plansmith_perf.benchmarking.benchmark import BenchmarkOptions
    from plansmith_perf.load.measuring import MeasuringOptions
    from plansmith_perf.load.requests import CheckedRequest
    from plansmith_perf.results.documents import ClosedLoop, Measurement, OpenLoop

__all__ = ["LoadGenerator", "with_own_workers", "with_perf_analyzer"]

# perf_analyzer writes each of them as text for each request.
_MOST_NUMBERS = 1000


@dataclass(frozen=True)
class LoadGenerator:
    """What makes the load.

    Attributes:
        name: of the program and its version.
        workers: processes that send.
        expected_answers: what answers are compared with.
        measure: puts one load on the server; gives the measurement, and why it ended early, "" if it did not.
    """

    name: str
    workers: int
    expected_answers: str
    measure: Callable[[ClosedLoop | OpenLoop, MeasuringOptions, Callable[[float], None]], tuple[Measurement, str]]


def with_own_workers(
    options: BenchmarkOptions, model: Model, requests: Sequence[CheckedRequest], folder: Path, *, binary: bool
) -> LoadGenerator:
    """Use the worker processes of plansmith, which compare each answer."""
    over_http = Address.parse(options.url).scheme in ("http", "https")
    path = write_requests(folder, model, requests, over_http=over_http, binary=binary)
    target = Target(options.url, options.model, options.version, path, folder, options.batch_size)
    return LoadGenerator(
        name="plansmith",
        workers=options.measuring.workers,
        expected_answers=options.golden.name if options.golden else "idle server",
        measure=lambda load, measuring, progress: measure(target, load, measuring, progress=progress),
    )


def with_perf_analyzer(
    options: BenchmarkOptions, model: Model, requests: Sequence[CheckedRequest], folder: Path
) -> LoadGenerator:
    """Use perf_analyzer, which is brought where it is not there.

    Raises:
        PerfAnalyzerMissing: it cannot be had here.
        LoadTestMisconfigured: it cannot do what the options ask for.
    """
    address = Address.parse(options.url)
    if address.scheme in ("grpcs", "https") or address.path:
        raise LoadTestMisconfigured(
            f"perf_analyzer is run without TLS and paths here: measure {options.url} with --tool plansmith"
        )
    numbers = sum(
        math.prod(array.shape) for arrays in (requests[0].inputs, requests[0].expected) for array in arrays.values()
    )
    each_request = numbers <= _MOST_NUMBERS
    untold = sorted(set(options.measuring.percentiles) - set(PERCENTILES)) if not each_request else []
    if untold:
        raise LoadTestMisconfigured(
            f"perf_analyzer does not tell p{untold[0]:g} of requests as large as these, only p"
            f"{', p'.join(map(str, PERCENTILES))}: leave it out, or measure with --tool plansmith"
        )
    analyzer = install_perf_analyzer()
    data = folder / "inputs.json"
    write_inputs(data, model, requests)
    question = Question(
        model=options.model,
        target=address.target,
        version=options.version,
        protocol="http" if address.scheme == "http" else "grpc",
        batch_size=options.batch_size,
        data=data,
    )
    return LoadGenerator(
        name=f"perf_analyzer {analyzer.version}",
        workers=1,
        expected_answers="not looked at",
        measure=lambda load, measuring, progress: measure_with_perf_analyzer(
            analyzer, question, load, measuring, url=options.url, each_request=each_request, progress=progress
        ),
    )
