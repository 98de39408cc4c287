"""Puts a series of loads on one model of a running server: the work of `plansmith bench`."""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_client import Client
from plansmith_client.addresses import Address
from plansmith_perf.environment import describe_environment
from plansmith_perf.load.encoding import write_requests
from plansmith_perf.load.measuring import MeasuringOptions, Target, measure
from plansmith_perf.results import ClosedLoop, LoadTestResult, Measurement, OpenLoop
from plansmith_perf.samples import make_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BenchmarkOptions", "run_benchmark"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        url: the server.
        model: its model's name.
        version: of the model; "" for the server's choice.
        loads: in this order.
        samples: file of real samples, or None for random values.
        golden: file of the right answers to them, or None.
        distinct_inputs: at most so many different requests.
        batch_size: rows a request.
        measuring: how each load is measured.
    """

    url: str
    model: str
    version: str
    loads: Sequence[ClosedLoop | OpenLoop]
    samples: Path | None
    golden: Path | None
    distinct_inputs: int
    batch_size: int
    measuring: MeasuringOptions


def run_benchmark(
    options: BenchmarkOptions, *, progress: Callable[[int, float], None] = lambda _number, _share: None
) -> LoadTestResult:
    """Measure each load in turn.

    Ctrl-C, and a server that goes away, end the series: the result holds what was measured until then, and says so.

    Args:
        options: what to measure.
        progress: called with the number of the load and the share of its time that has passed.

    Raises:
        LoadTestMisconfigured: the options contradict each other or the model.
        WrongAnswer: the idle server does not answer as the golden file says.
        PerfError: the load generator itself failed.
        plansmith_client.ClientError: the server is not there, does not have the model, or does not answer.
    """
    measuring = options.measuring
    over_http = Address.parse(options.url).scheme in ("http", "https")
    with (
        Client(options.url, timeout=measuring.timeout) as client,
        tempfile.TemporaryDirectory(prefix="plansmith-requests-") as folder,
    ):
        server = client.server_metadata()
        model = client.model(options.model, options.version)
        requests = make_requests(
            model,
            samples=options.samples,
            golden=options.golden,
            count=options.distinct_inputs,
            batch_size=options.batch_size,
            seed=measuring.seed,
            tolerance=measuring.tolerance,
        )
        binary = any("binary_tensor_data" in extension for extension in server.extensions)
        path = write_requests(Path(folder), model, requests, over_http=over_http, binary=binary)
        target = Target(options.url, options.model, options.version, path, Path(folder), options.batch_size)
        measurements: list[Measurement] = []
        interruption = ""
        for number, load in enumerate(options.loads):

            def shown(share: float, number: int = number) -> None:
                progress(number, share)

            try:
                measured, interruption = measure(target, load, measuring, progress=shown)
            except KeyboardInterrupt:
                # While the load's processes were starting: what came before is kept.
                interruption = "Ctrl-C"
            else:
                measurements.append(measured)
            if interruption:
                break
        return LoadTestResult(
            tool="plansmith",
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            model=options.model,
            model_version=options.version or ", ".join(model.metadata.versions),
            protocol="http" if over_http else "grpc",
            batch_size=options.batch_size,
            inputs=options.samples.name if options.samples else "random",
            expected_answers=options.golden.name if options.golden else "idle server",
            workers=measuring.workers,
            environment=describe_environment(f"{server.name} {server.version}"),
            complete=not interruption,
            interruption=interruption or None,
            measurements=measurements,
        )
