"""`plansmith bench compare`: the same model as served, in other configurations, and without a server."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn, TimeElapsedColumn

from plansmith_build.commands.shared_options import RepositoryOption  # noqa: TC001 - typer reads the annotations
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal
from plansmith_perf.commands import shared_options as shared
from plansmith_perf.comparing.comparing import ComparisonOptions, run_comparison
from plansmith_perf.comparing.peers import baseline_of, choose_peers, configuration_peers, peers_for_a_gpu
from plansmith_perf.load.measuring import MeasuringOptions, default_workers
from plansmith_perf.report.terminal import show_comparison
from plansmith_perf.results.writing import check_writable, write_text

if TYPE_CHECKING:
    from plansmith_perf.comparing.results import Comparison

__all__ = ["compare"]


def compare(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    repository: RepositoryOption = Path("model_repository"),
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
    seconds: shared.SecondsOption = 3.0,
    warmup: shared.WarmupOption = 1.0,
    samples: shared.SamplesOption = None,
    batch_size: shared.BatchSizeOption = 1,
    distinct_inputs: Annotated[
        int, typer.Option("--distinct-inputs", min=1, help="Different requests whose answers are compared.")
    ] = 16,
    tolerance: shared.ToleranceOption = 1e-3,
    workers: shared.WorkersOption = None,
    timeout: shared.TimeoutOption = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random inputs.")] = 0,
    output: shared.OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the same model in every way that could serve or run it.

    These are plansmith as it serves the model, Triton without its configuration, the client libraries, the runtimes in
    process, and any configuration of the model that --configs names. All get the same requests, and their answers are
    compared.

    For example:

        plansmith bench compare resnet50 --configs none,cpu
        plansmith bench compare resnet50 --peers server,in-process
    """
    shared.check_measuring(seconds, timeout, warmup, tolerance)
    check_writable(output, "--output")
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
        Terminal(stderr=True).print("Interrupted: nothing was measured; all servers have stopped.", soft_wrap=True)
        raise typer.Exit(shared.EXIT_INTERRUPTED) from None
    document = result.model_dump_json(indent=2)
    if as_json:
        typer.echo(document)
    else:
        show_comparison(result)
    # After it was shown: what cannot be written after all is not lost.
    write_text(output, f"{document}\n", "--output")
    if not result.complete:
        Terminal(stderr=True).print("Interrupted: the result is partial; all servers have stopped.", soft_wrap=True)
        raise typer.Exit(shared.EXIT_INTERRUPTED)
    if not any(peer.rounds for peer in result.peers):
        raise typer.Exit(shared.EXIT_FAILED)


def _with_progress(options: ComparisonOptions) -> Comparison:
    with shared.ProgressBar(TaskProgressColumn(), TimeElapsedColumn()) as bar:
        task = bar.add_task("Starting", total=options.rounds * len(options.peers))
        return run_comparison(options, progress=partial(bar.tell, task))
