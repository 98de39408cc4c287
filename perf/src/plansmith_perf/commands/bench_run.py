"""`plansmith bench MODEL`: how much a served model can take."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Literal

import typer
from rich.progress import TaskProgressColumn, TimeRemainingColumn

from plansmith_client.commands.options import JsonOption, UrlOption  # noqa: TC001
from plansmith_client.terminal import Terminal
from plansmith_perf.benchmarking.benchmark import BenchmarkOptions, run_benchmark
from plansmith_perf.commands import shared_options as shared
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.measuring import MeasuringOptions, default_workers
from plansmith_perf.report import check_report_path, write_report
from plansmith_perf.report.terminal import show_load_test
from plansmith_perf.results.documents import ClosedLoop, LoadTestResult, OpenLoop
from plansmith_perf.results.formatting import as_given, load_name
from plansmith_perf.results.writing import check_writable, write_text
from plansmith_perf.slo import Slo

__all__ = ["run"]

_CONCURRENCY = "1,2,4,8,16,32"
_MOST_REQUESTS = 50_000_000


def run(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency",
            "-c",
            help="Closed loop: requests in flight, one load for each number.",
            show_default=str(_CONCURRENCY),
        ),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Open loop instead: requests per second, one load for each.")
    ] = None,
    *,
    slo: Annotated[
        str | None, typer.Option("--slo", help="Find the highest rate that keeps this, such as p99=50ms, instead.")
    ] = None,
    arrivals: Annotated[
        Literal["poisson", "constant"], typer.Option("--arrivals", help="How an open loop spaces its requests.")
    ] = "poisson",
    tool: Annotated[
        Literal["plansmith", "perf_analyzer"], typer.Option("--tool", help="What makes the load.")
    ] = "plansmith",
    rounds: Annotated[
        int,
        typer.Option("--rounds", min=1, help="How often to measure all loads, in turn; 5 let `bench diff` tell noise."),
    ] = 1,
    seconds: shared.SecondsOption = 5.0,
    warmup: shared.WarmupOption = 1.0,
    batch_size: shared.BatchSizeOption = 1,
    samples: shared.SamplesOption = None,
    golden: Annotated[
        Path | None, typer.Option("--golden", metavar="FILE", help="The right outputs for --samples, row by row.")
    ] = None,
    distinct_inputs: shared.DistinctInputsOption = 16,
    tolerance: shared.ToleranceOption = 1e-3,
    percentiles: Annotated[str, typer.Option("--percentiles", help="Percentiles to report.")] = "50,90,95,99",
    workers: shared.WorkersOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random inputs and of Poisson arrivals.")] = 0,
    model_version: Annotated[
        str, typer.Option("--model-version", help="A version; the server's choice if not given.")
    ] = "",
    output: shared.OutputOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a report: .html, .md or .csv.")
    ] = None,
    url: UrlOption = "localhost:8001",
    timeout: shared.TimeoutOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Measure how much a served model can take.

    For example:

        plansmith bench resnet50
        plansmith bench resnet50 --rate 100,200 --rounds 5 --output result.json
        plansmith bench resnet50 --slo p99=50ms --report report.html
    """
    shared.check_measuring(seconds, timeout, warmup, tolerance)
    objective = Slo.parse(slo) if slo is not None else None
    if sum(option is not None for option in (concurrency, rate, slo)) > 1:
        raise LoadTestMisconfigured("--concurrency, --rate and --slo are three kinds of load: give one of them")
    loads = _loads(concurrency or _CONCURRENCY, rate, arrivals, warmup + seconds)
    if objective is not None and rounds > 1:
        raise LoadTestMisconfigured("--slo measures what it finds once more by itself: give either --slo or --rounds")
    asked = shared.positive_numbers("--percentiles", percentiles, below=100)
    percents = sorted({*asked} | ({objective.percentile} if objective else set()))
    check_writable(output, "--output")
    if report is not None:
        check_report_path(report)
    measuring = MeasuringOptions(
        *(seconds, warmup, workers or default_workers(), timeout, tolerance), percentiles=percents, seed=seed
    )
    result = _with_progress(
        BenchmarkOptions(
            url=url,
            model=model,
            version=model_version,
            loads=loads,
            samples=samples,
            golden=golden,
            distinct_inputs=distinct_inputs,
            batch_size=batch_size,
            measuring=measuring,
            tool=tool,
            rounds=rounds,
            slo=objective,
            arrivals=arrivals,
        )
    )
    document = result.model_dump_json(indent=2)
    if as_json:
        typer.echo(document)
    else:
        show_load_test(result)
    write_text(output, f"{document}\n", "--output")
    if report is not None and result.measurements:
        write_report({model: result}, report)
    _exit_unless_good(result)


def _loads(
    concurrency: str, rate: str | None, arrivals: Literal["poisson", "constant"], seconds: float
) -> tuple[ClosedLoop | OpenLoop, ...]:
    if rate is None:
        numbers = shared.whole_numbers("--concurrency", concurrency)
        return tuple(ClosedLoop(concurrency=number) for number in numbers)
    rates = shared.positive_numbers("--rate", rate)
    if max(rates) * seconds > _MOST_REQUESTS:
        raise LoadTestMisconfigured(
            f"--rate {as_given(max(rates))} for {seconds:g} s is a schedule of {max(rates) * seconds:,.0f} requests, "
            f"which is written down before the first is sent: {_MOST_REQUESTS:,} are the most"
        )
    return tuple(OpenLoop(rate=number, arrivals=arrivals) for number in rates)


def _exit_unless_good(result: LoadTestResult) -> None:
    if not result.complete:
        Terminal(stderr=True, markup=False).print(
            f"Ended early: {result.interruption}. The result is partial.", soft_wrap=True
        )
        raise typer.Exit(shared.EXIT_INTERRUPTED if result.interruption == "Ctrl-C" else shared.EXIT_FAILED)
    # Of a flood, a server may answer nothing before all of it has come in.
    if all(measured.errors == measured.requests for measured in result.measurements):
        raise typer.Exit(shared.EXIT_FAILED)
    if result.slo is not None and not result.slo.met:
        last = result.measurements[-1]
        Terminal(stderr=True, markup=False).print(
            f"The SLO {result.slo.slo} is not met at any rate that was tried. "
            f"At {load_name(last.load)}, the last one, {Slo.parse(result.slo.slo).why_missed(last)}.",
            soft_wrap=True,
        )
        raise typer.Exit(shared.EXIT_MISSED)


def _with_progress(options: BenchmarkOptions) -> LoadTestResult:
    with shared.ProgressBar(TaskProgressColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(
            f"Measuring {options.model}", total=None if options.slo else len(options.loads) * options.rounds
        )

        def shown(number: int, load: ClosedLoop | OpenLoop, share: float) -> None:
            bar.tell(task, f"Measuring at {load_name(load)}", number + share)

        return run_benchmark(options, progress=shown)
