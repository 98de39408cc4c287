"""`plansmith tune`: the configuration with the highest throughput inside a service level objective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from plansmith_build.commands.shared_options import (  # noqa: TC001 - typer reads the annotations
    PublicKeyOption,
    RepositoryOption,
    StagingOption,
)
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal
from plansmith_perf.commands import shared_options as shared
from plansmith_perf.load.measuring import MeasuringOptions, default_workers
from plansmith_perf.report.terminal import show_tuning
from plansmith_perf.slo import Slo
from plansmith_perf.tuning.options import TuningOptions, TuningProgress, TuningResult
from plansmith_perf.tuning.space import SpaceLimits
from plansmith_perf.tuning.tuner import tune as run_tuning

if TYPE_CHECKING:
    from plansmith_perf.tuning.records import TrialRecord

__all__ = ["tune"]


def tune(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    slo: Annotated[str, typer.Option("--slo", help="The objective to keep, such as p99=50ms.")],
    repository: RepositoryOption = Path("model_repository"),
    config_name: Annotated[
        str, typer.Option("--config-name", help="The configuration to tune: configs/NAME.pbtxt.")
    ] = "cpu",
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Settings to measure.", show_default="24, or all with --exhaustive"),
    ] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Measure every setting, in order.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the change and publish nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue with the trials in the storage.")] = False,
    storage: Annotated[
        Path | None,
        typer.Option("--storage", metavar="FILE", help="Remembers trials.", show_default="in the user's cache folder"),
    ] = None,
    variants: Annotated[
        str | None, typer.Option("--variants", help="Only variants with one of these words in their name.")
    ] = None,
    instances: Annotated[str | None, typer.Option("--instances", help="Numbers of instances to try: 1,2.")] = None,
    threads: Annotated[str | None, typer.Option("--threads", help="Threads of each instance to try: 1,2.")] = None,
    max_batch_sizes: Annotated[str | None, typer.Option("--max-batch-sizes", help="Batch sizes to try: 16,64.")] = None,
    queue_delays: Annotated[
        str | None, typer.Option("--queue-delays", help="Delays of dynamic batching to try, microseconds: off,0,500.")
    ] = None,
    preferred_batch_sizes: Annotated[
        str | None, typer.Option("--preferred-batch-sizes", help="Preferred batch sizes to try, 0 for none: 0,8.")
    ] = None,
    samples: shared.SamplesOption = None,
    distinct_inputs: shared.DistinctInputsOption = 16,
    batch_size: shared.BatchSizeOption = 1,
    protocol: Annotated[Literal["grpc", "http"], typer.Option("--protocol", help="Of the load.")] = "grpc",
    seconds: shared.SecondsOption = 1.0,
    warmup: shared.WarmupOption = 0.3,
    most_concurrency: Annotated[
        int, typer.Option("--max-concurrency", min=1, help="The most requests in flight.")
    ] = 64,
    rounds: Annotated[
        int, typer.Option("--rounds", min=3, help="Rounds that compare the best trials with the configuration in use.")
    ] = 5,
    tolerance: shared.ToleranceOption = 1e-3,
    workers: shared.WorkersOption = None,
    timeout: shared.TimeoutOption = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the search and of random inputs.")] = 0,
    sign_key: Annotated[Path | None, typer.Option(help="Sign the new version with this private key (PEM).")] = None,
    public_key: PublicKeyOption = None,
    staging: StagingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the configuration with the highest throughput inside an SLO, and publish it.

    Each trial is a real server with the model under another configuration, started on free ports. The
    repository is only read until the best trial has shown in interleaved rounds that it is better.

    For example:

        plansmith tune resnet50 --slo p99=50ms --dry-run
        plansmith tune resnet50 --slo p99=50ms --instances 1,2 --threads 1,2
    """
    objective = Slo.parse(slo)
    shared.check_measuring(seconds, timeout, warmup, tolerance)
    options = TuningOptions(
        repository=repository,
        model=model,
        slo=objective,
        config_name=config_name,
        trials=trials,
        exhaustive=exhaustive,
        limits=SpaceLimits(
            variants=variants.split(",") if variants is not None else None,
            instances=_numbers("--instances", instances, least=1),
            threads=_numbers("--threads", threads),
            max_batch_sizes=_numbers("--max-batch-sizes", max_batch_sizes, least=1),
            queue_delays=_delays(queue_delays),
            preferred_batch_sizes=_numbers("--preferred-batch-sizes", preferred_batch_sizes),
        ),
        storage=storage,
        resume=resume,
        samples=samples,
        distinct_inputs=distinct_inputs,
        batch_size=batch_size,
        protocol=protocol,
        measuring=MeasuringOptions(
            *(seconds, warmup, workers or default_workers(), timeout, tolerance),
            percentiles=sorted({50.0, objective.percentile}),
            seed=seed,
        ),
        most_concurrency=most_concurrency,
        rounds=rounds,
        dry_run=dry_run,
        sign_key=sign_key,
        public_key=public_key,
        staging=staging,
    )
    try:
        result = _with_progress(options)
    except KeyboardInterrupt:
        Terminal(stderr=True).print(
            "Interrupted: nothing was published; all servers have stopped. Add --resume to continue.",
            soft_wrap=True,
        )
        raise typer.Exit(shared.EXIT_INTERRUPTED) from None
    if as_json:
        typer.echo(_as_json(result))
    else:
        show_tuning(result)
    if not result.met:
        if as_json:
            Terminal(stderr=True).print(result.record.verdict, soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(shared.EXIT_MISSED)


def _with_progress(options: TuningOptions) -> TuningResult:
    with shared.ProgressBar(MofNCompleteColumn(), TimeElapsedColumn()) as bar:
        task = bar.add_task("Looking", total=None)

        def shown(now: TuningProgress) -> None:
            best = f" | best {now.best.throughput:,.0f}/s" if now.best is not None else ""
            bar.update(task, total=now.total, completed=now.done, description=now.doing + best)
            if now.finished is not None:
                which = f"trial {now.done} of {now.total}" if now.done else "in use"
                line = f"{which}: {now.finished.setting}: {_outcome(now.finished)}{best}"
                bar.console.print(line, soft_wrap=True, markup=False, highlight=False)

        return run_tuning(options, progress=shown)


def _outcome(trial: TrialRecord) -> str:
    """What became of a trial, in a few words."""
    if trial.status == "measured":
        return f"{trial.throughput:,.0f} requests/s with {trial.concurrency} in flight"
    if trial.status == "misses" and trial.latency is not None:
        return f"misses the SLO: {trial.latency / 1000:,.2f} ms {trial.reason}"
    return f"{trial.status}: {trial.reason}"


def _as_json(result: TuningResult) -> str:
    """One JSON document: the evidence, the change, and where the new version is."""
    published = result.published
    return json.dumps(
        {
            "tuning": result.record.model_dump(mode="json"),
            "met": result.met,
            "diff": result.diff,
            "version": published.version if published is not None else None,
            "path": str(published.path) if published is not None else None,
            "notes": published.notes if published is not None else [],
            "storage": str(result.storage),
        },
        indent=2,
    )


def _numbers(option: str, text: str | None, *, least: int = 0) -> list[int] | None:
    return None if text is None else shared.whole_numbers(option, text, least=least)


def _delays(text: str | None) -> list[int | None] | None:
    if text is None:
        return None
    words = text.split(",")
    numbers = [word for word in words if word != "off"]
    given = iter(shared.whole_numbers("--queue-delays", ",".join(numbers), least=0) if numbers else ())
    return [None if word == "off" else next(given) for word in words]
