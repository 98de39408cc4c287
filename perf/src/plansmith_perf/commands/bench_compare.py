"""`plansmith bench compare`: the same model as served, in other configurations, and without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_perf.commands.option_ranges import check_not_negative, check_positive
from plansmith_perf.commands.output_files import check_output, write_output
from plansmith_perf.comparing.comparing import ComparisonOptions, run_comparison
from plansmith_perf.comparing.peers import baseline_of, choose_peers, configuration_peers, peers_for_a_gpu
from plansmith_perf.load.measuring import MeasuringOptions, default_workers
from plansmith_perf.report.terminal import show_comparison

if TYPE_CHECKING:
    from plansmith_perf.comparing.results import Comparison

__all__ = ["compare"]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def compare(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    repository: Annotated[Path, typer.Option("--repository", help="The model repository.")] = Path("model_repository"),
    peers: Annotated[
        str | None,
        typer.Option(
            "--peers",
            help="Peers to measure, separated by commas; also server, client, in-process, all. Default: all, but with "
            "--configs none.",
        ),
    ] = None,
    configs: Annotated[
        str,
        typer.Option(
            "--configs",
            metavar="NAMES",
            help="Configurations of the model to compare with each other, such as cpu,openvino_int8; none for "
            "config.pbtxt.",
        ),
    ] = "",
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Requests in flight.")] = 32,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each is measured, in turn.")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of each measurement.")] = 3.0,
    warmup: Annotated[float, typer.Option("--warmup", help="Seconds of load before each that do not count.")] = 1.0,
    samples: Annotated[
        Path | None, typer.Option("--samples", metavar="FILE", help="Real inputs: .npz, .npy or .json, samples first.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Rows a request.")] = 1,
    distinct_inputs: Annotated[
        int, typer.Option("--distinct-inputs", min=1, help="Different requests whose answers are compared.")
    ] = 16,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Greatest difference, relative to an output's greatest value.")
    ] = 1e-3,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that send; one for two cores if not given.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that a request may take.")] = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random inputs.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result to this JSON file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the same model in every way that could serve or run it.

    These are plansmith as it serves the model, Triton without its configuration, the client libraries, the runtimes in
    process, and any configuration of the model that --configs names. All get the same requests, and their answers are
    compared.
    """
    check_positive(seconds=seconds, timeout=timeout)
    check_not_negative(warmup=warmup, tolerance=tolerance)
    check_output(output)
    named = configuration_peers(ModelRepository.at(repository).existing_model(model), configs) if configs else []
    chosen = choose_peers(peers if peers is not None else "" if named else "all")
    on_gpu, note = peers_for_a_gpu() if any(peer.kind == "in process" for peer in chosen) else ([], "")
    options = ComparisonOptions(
        repository=repository,
        model=model,
        peers=[*chosen, *named, *on_gpu],
        baseline=baseline_of(chosen, named),
        rounds=rounds,
        measuring=MeasuringOptions(seconds, warmup, workers or default_workers(), timeout, tolerance, seed=seed),
        concurrency=concurrency,
        batch_size=batch_size,
        samples=samples,
        distinct_inputs=distinct_inputs,
        notes=[note] if note else [],
    )
    try:
        result = _with_progress(options)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted: nothing was measured; all servers have stopped.", soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    document = result.model_dump_json(indent=2)
    if as_json:
        typer.echo(document)
    else:
        show_comparison(result)
    # After it was shown: what cannot be written after all is not lost.
    write_output(output, document)
    if not result.complete:
        Console(stderr=True).print("Interrupted: the result is partial; all servers have stopped.", soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not any(peer.rounds for peer in result.peers):
        raise typer.Exit(EXIT_FAILED)


def _with_progress(options: ComparisonOptions) -> Comparison:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=options.rounds * len(options.peers))
        return run_comparison(options, progress=lambda doing, done: bar.update(task, description=doing, completed=done))
