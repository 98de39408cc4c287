"""`plansmith build`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from plansmith_build.building import BuildResult
    from plansmith_build.manifest import Verification
    from plansmith_build.progress import BuildStep

__all__ = ["build"]


def build(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")],
    *,
    repository: Annotated[
        Path, typer.Option(help="Model repository to publish into; made if need be.", show_default=True)
    ] = Path("model_repository"),
    name: Annotated[str | None, typer.Option(help="Name of the model. [default: the file's]")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line, in the order of the outputs.")
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Largest batch the server may make; 0 for no batches.")
    ] = 32,
    no_optimize: Annotated[bool, typer.Option("--no-optimize", help="Leave the graph's nodes as they are.")] = False,
    no_dynamic_batch: Annotated[
        bool, typer.Option("--no-dynamic-batch", help="Leave a fixed number of rows as it is.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Makes the random inputs of the verification repeatable.")] = 0,
    staging: Annotated[
        Path | None,
        typer.Option(
            help="Folder to make the version in, outside the repository and on the same file system. "
            "[default: the repository's parent]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Build a verified version from an ONNX file and publish it in a model repository.

    The file is checked, repaired where it is awkward, made to take batches of any size where its graph allows, and
    optimised; what comes out must answer random inputs as the file itself does, or nothing is published.
    """
    from plansmith_build.building import BuildOptions  # noqa: PLC0415 - onnx and ONNX Runtime, not for `--help`
    from plansmith_build.building import build as build_version  # noqa: PLC0415

    options = BuildOptions(
        repository=repository,
        name=name,
        labels=labels,
        max_batch_size=max_batch_size,
        optimize=not no_optimize,
        dynamic_batch=not no_dynamic_batch,
        seed=seed,
        staging=staging,
    )
    # What it is doing goes to standard error, so that standard output holds the result alone.
    display = Console(stderr=True, highlight=False, soft_wrap=True)
    with display.status("Loading onnx and ONNX Runtime") as status:

        def progress(step: BuildStep) -> None:
            if step.outcome:
                display.print(f"[green]✓[/] {escape(step.title)}: {escape(step.outcome)}")
            else:
                status.update(escape(step.title))

        result = build_version(model, options, progress)
    if as_json:
        typer.echo(_json(result))
    else:
        _show(result, repository)


def _json(result: BuildResult) -> str:
    return json.dumps(
        {
            "name": result.name,
            "version": result.version,
            "path": str(result.path),
            "notes": result.notes,
            "manifest": result.manifest.model_dump(mode="json"),
        },
        indent=2,
    )


def _show(result: BuildResult, repository: Path) -> None:
    manifest = result.manifest
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("published", f"{escape(result.name)} version {result.version} in {escape(str(result.path))}")
    table.add_row("inputs", escape("\n".join(map(str, manifest.inputs))))
    table.add_row("outputs", escape("\n".join(map(str, manifest.outputs))))
    batching = manifest.batching
    table.add_row(
        "batches",
        f"up to {batching.max_batch_size} rows" if batching.max_batch_size else f"none: {escape(batching.reason)}",
    )
    graph = manifest.graph
    table.add_row("graph", f"{graph.nodes_before} -> {graph.nodes_after} nodes, {escape(graph.optimization)}")
    if graph.repairs:
        table.add_row("repaired", escape("\n".join(graph.repairs)))
    table.add_row("verified", escape(_verification(manifest.verification)))
    for note in result.notes:
        table.add_row("note", escape(note))
    console = Console(highlight=False)
    console.print(table)
    where = "" if repository == Path("model_repository") else f" --repository {shlex.quote(str(repository))}"
    console.print(f"\nNext: plansmith serve{where}", markup=False, soft_wrap=True)


def _verification(verification: Verification) -> str:
    rows = f", {verification.rows_together} rows as one batch" if verification.rows_together else ""
    where = f"on {verification.samples} random samples{rows}"
    compared = [output for output in verification.outputs if output.values_compared]
    if not compared:
        return f"shapes only {where}: the model gives other values each time"
    worst = max(compared, key=lambda output: output.max_relative_error)
    return f"relative error {worst.max_relative_error:.2g} ({worst.tolerance:g} allowed) {where}"
