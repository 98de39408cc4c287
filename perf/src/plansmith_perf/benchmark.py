"""Puts a series of loads on one model of a running server: the work of `plansmith bench`."""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plansmith_client import Client
from plansmith_client.addresses import Address
from plansmith_perf.environment import describe_environment
from plansmith_perf.load.encoding import write_requests
from plansmith_perf.load.measuring import MeasuringOptions, Target, measure
from plansmith_perf.results import ClosedLoop, LoadTestResult, Measurement, OpenLoop
from plansmith_perf.samples import make_requests
from plansmith_perf.slo import Slo, highest_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from plansmith_perf.results import SloOutcome

__all__ = ["BenchmarkOptions", "run_benchmark"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        url: the server.
        model: its model's name.
        version: of the model; "" for the server's choice.
        loads: in this order; with an SLO those of its search are measured instead.
        samples: file of real samples, or None for random values.
        golden: file of the right answers to them, or None.
        distinct_inputs: at most so many different requests.
        batch_size: rows a request.
        measuring: how each load is measured.
        rounds: how often the series of loads is measured; one after the other, so that what changes on the machine
            meets all loads alike.
        slo: find the highest rate that keeps it.
        arrivals: how that search spaces requests.
    """

    url: str
    model: str
    version: str
    loads: tuple[ClosedLoop | OpenLoop, ...]
    samples: Path | None
    golden: Path | None
    distinct_inputs: int
    batch_size: int
    measuring: MeasuringOptions
    rounds: int = 1
    slo: Slo | None = None
    arrivals: Literal["poisson", "constant"] = "poisson"


def run_benchmark(
    options: BenchmarkOptions,
    *,
    progress: Callable[[int, ClosedLoop | OpenLoop, float], None] = lambda _number, _load, _share: None,
) -> LoadTestResult:
    """Measure each load in turn.

    Ctrl-C, and a server that goes away, end the series: the result holds what was measured until then, and says so.

    Args:
        options: what to measure.
        progress: called with the number of the load, the load, and the share of its time that has passed.

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
        outcome: SloOutcome | None = None
        series = (
            _in_order(options.loads * options.rounds)
            if options.slo is None
            else highest_rate(options.slo, options.arrivals)
        )
        load = next(series)
        while not interruption:
            number = len(measurements)

            def shown(share: float, number: int = number, load: ClosedLoop | OpenLoop = load) -> None:
                progress(number, load, share)

            try:
                # Each with arrivals of its own: a confirmation with the same ones would confirm nothing.
                varied = replace(measuring, seed=measuring.seed + number)
                measured, interruption = measure(target, load, varied, progress=shown)
            except KeyboardInterrupt:
                # While the load's processes were starting: what came before is kept.
                interruption = "Ctrl-C"
                break
            measurements.append(measured)
            try:
                load = series.send(measured)
            except StopIteration as end:
                outcome = end.value
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
            slo=None if interruption else outcome,
        )


def _in_order(loads: Sequence[ClosedLoop | OpenLoop]) -> Generator[ClosedLoop | OpenLoop, Measurement, None]:
    for load in loads:
        # Not `yield from`: what is sent would go to the sequence, which takes nothing.
        _ = yield load
