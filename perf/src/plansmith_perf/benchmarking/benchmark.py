"""Puts a series of loads on one model of a running server: the work of `plansmith bench`."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from plansmith_build.repository.staging import temporary_folder
from plansmith_client import Client
from plansmith_client.transports.addresses import Address
from plansmith_perf.benchmarking.generators import with_own_workers, with_perf_analyzer
from plansmith_perf.errors import LoadTestMisconfigured, PerfError
from plansmith_perf.load.samples import RequestOptions, check_loadable, make_requests
from plansmith_perf.results.documents import LoadTestResult
from plansmith_perf.results.environment import describe_environment
from plansmith_perf.slo import highest_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from plansmith_perf.results.documents import ClosedLoop, Measurement, OpenLoop, SloOutcome
    from plansmith_perf.slo import Slo

__all__ = ["BenchmarkOptions", "run_benchmark"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(RequestOptions):
    """What to measure.

    Attributes:
        url: the server.
        model: its model's name.
        version: of the model; "" for the server's choice.
        loads: in this order; with an SLO those of its search are measured instead.
        tool: what makes the load: plansmith itself, or NVIDIA's perf_analyzer.
        rounds: how often the series of loads is measured; one after the other, so that what changes on the machine
            meets all loads alike.
        slo: find the highest rate that keeps it.
        arrivals: how that search spaces requests.
    """

    url: str
    model: str
    version: str = ""
    loads: tuple[ClosedLoop | OpenLoop, ...]
    tool: Literal["plansmith", "perf_analyzer"] = "plansmith"
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

    Raises:
        LoadTestMisconfigured: the options contradict each other or the model.
        WrongAnswer: the idle server does not answer as the golden file says.
        PerfError: the load generator itself failed.
        plansmith_client.ClientError: the server is not there, does not have the model, or does not answer.
    """
    measuring = options.measuring
    if options.tool == "perf_analyzer" and options.golden is not None:
        raise LoadTestMisconfigured("perf_analyzer does not look at answers: leave --golden out")
    over_http = Address.parse(options.url).scheme in ("http", "https")
    with Client(options.url, timeout=measuring.timeout) as client, temporary_folder() as folder:
        server = client.server_metadata()
        model = client.model(options.model, options.version)
        served = check_loadable(model)
        requests = make_requests(model, options)
        binary = any("binary_tensor_data" in extension for extension in server.extensions)
        if options.tool == "perf_analyzer":
            generator = with_perf_analyzer(options, model, requests, folder)
        else:
            generator = with_own_workers(options, model, requests, folder, binary=binary)
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
                measured, interruption = generator.measure(load, varied, shown)
            except KeyboardInterrupt:
                # While the load's processes were starting: what came before is kept.
                interruption = "Ctrl-C"
                break
            except PerfError as error:
                if not measurements:
                    raise
                interruption = str(error)
                break
            measurements.append(measured)
            try:
                load = series.send(measured)
            except StopIteration as end:
                outcome = end.value
                break
        return LoadTestResult(
            tool=generator.name,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            model=options.model,
            model_version=options.version or ", ".join(model.metadata.versions),
            protocol="http" if over_http else "grpc",
            served=served,
            batch_size=options.batch_size,
            inputs=options.inputs,
            expected_answers=generator.expected_answers,
            workers=generator.workers,
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
