"""`plansmith inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.text import Text

from plansmith_build.commands.build_display import candidates_table
from plansmith_build.commands.confinement import Limits, confined
from plansmith_build.commands.shared_options import RepositoryOption  # noqa: TC001 - typer reads the annotations
from plansmith_build.errors import InvalidOption
from plansmith_build.repository.inspection import inspect_file, inspect_model, summaries
from plansmith_build.repository.model_card import model_card
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Column, FittingTable, Terminal, facts_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.table import Table

    from plansmith_build.repository.inspection import ModelReport, ModelSummary, OnnxReport
    from plansmith_build.repository.manifest import Manifest

__all__ = ["inspect"]

# A file may name its producer at any length.
_PRODUCER = 200
# What is longer was not written for anybody to read.
_CONFIG = 10_000


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|FILE.onnx", help="A model of the repository, or an ONNX file.", show_default="all models"
        ),
    ] = None,
    *,
    repository: RepositoryOption = Path("model_repository"),
    version: Annotated[int | None, typer.Option(min=1, help="Version of the model.", show_default="the newest")] = None,
    as_json: JsonOption = False,
    card: Annotated[
        bool, typer.Option("--card", help="Print a model card instead: Markdown with Hugging Face's metadata.")
    ] = False,
) -> None:
    """Show what a model repository holds: its models, or one model's configuration, manifest and files.

    Works on any repository, also one that plansmith did not write. Files that are not what the manifest says they were
    when they were published are marked.

    For example:

        plansmith inspect
        plansmith inspect resnet50 --version 2
        plansmith inspect resnet50.onnx
        plansmith inspect resnet50 --card > README.md
    """
    if card and (as_json or model is None or _is_file(model)):
        raise InvalidOption("--card is of a model in the repository, without --json: plansmith inspect MODEL --card")

    def work(_: Callable[[], None]) -> None:
        console = Terminal(highlight=False)
        if model is not None and _is_file(model):
            report = inspect_file(Path(model))
            _print_json(report.model_dump(mode="json")) if as_json else _show_file(console, report)
            return
        found = ModelRepository.at(repository)
        if model is not None:
            details = inspect_model(found.existing_model(model), version)
            if card:
                if details.manifest is None:
                    raise InvalidOption(
                        f"{details.path} has no manifest to write a card from: plansmith did not write it"
                    )
                typer.echo(model_card(details.manifest), nl=False)
                return
            _print_json(details.model_dump(mode="json")) if as_json else _show_model(console, details)
            return
        if version is not None:
            raise InvalidOption("--version needs a model: plansmith inspect MODEL --version N")
        if not found.path.is_dir():
            raise InvalidOption(
                f"there is no repository {repository}: name one with --repository, or build a model first"
            )
        listed = summaries(found)
        if as_json:
            _print_json(
                {"repository": str(found.path), "models": [summary.model_dump(mode="json") for summary in listed]}
            )
        else:
            _show_models(console, found.path, listed)

    # A file is read, and of a repository what its configurations leave out.
    confined(work, Limits(), subject=model or str(repository))


def _is_file(model: str) -> bool:
    return model.endswith(".onnx") or "/" in model


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2))


def _show_models(console: Terminal, path: Path, models: Iterable[ModelSummary]) -> None:
    columns = (
        *(Column("model", "words"), Column("versions", "words"), Column("backend", "words", spare=2)),
        *(Column("batch", spare=3), Column("inputs", "words"), Column("outputs", "words"), Column("size", spare=1)),
    )
    rows = [
        (
            model.name,
            ", ".join(map(str, model.versions)) or "none",
            model.backend,
            _batch(model.max_batch_size),
            Text(model.problem, style="red") if model.problem else _lines(model.inputs),
            _lines(model.outputs),
            decimal(model.size),
        )
        for model in models
    ]
    if rows:
        console.print(FittingTable(columns, rows, str(path)))
    else:
        console.print(f"{path} holds no models: plansmith build MODEL.onnx --repository {path}", markup=False)


def _show_model(console: Terminal, report: ModelReport) -> None:
    summary = report.summary
    facts = facts_table()
    facts.add_row("model", escape(summary.name))
    facts.add_row("versions", ", ".join(map(str, summary.versions)) or "none")
    facts.add_row("shown", f"version {report.version}, {escape(report.path)}" if report.version else "no version")
    facts.add_row("inputs", escape(_lines(summary.inputs)))
    facts.add_row("outputs", escape(_lines(summary.outputs)))
    facts.add_row("batches", _batch(summary.max_batch_size))
    if report.configs:
        facts.add_row("configs", escape(", ".join(report.configs)))
    if summary.problem:
        facts.add_row("problem", f"[red]{escape(summary.problem)}[/]")
    if report.manifest:
        _add_manifest(facts, report.manifest)
    else:
        facts.add_row("manifest", "none: plansmith did not write this version")
    console.print(facts)
    if report.manifest and report.manifest.search:
        console.print()
        console.print(candidates_table(report.manifest.search))

    # The manifest, which holds the hashes, has none of itself.
    verdicts = {True: ("as published", "green"), False: ("changed since", "red"), None: ("without one", "dim")}
    files = [(file.path, decimal(file.size), Text(*verdicts[file.unchanged])) for file in report.files]
    files += [(missing, "", Text("missing", "red")) for missing in report.missing]
    console.print()
    console.print(FittingTable((Column("file", "words"), Column("size"), Column("SHA-256", "name")), files))
    if report.config:
        console.print("\nconfig.pbtxt", style="bold")
        # A line of it that is folded is not what the file says.
        console.print(report.config.rstrip()[:_CONFIG], markup=False, soft_wrap=True)
        if len(report.config) > _CONFIG:
            console.print(f"... ({len(report.config)} characters in all)", style="dim")


def _add_manifest(facts: Table, manifest: Manifest) -> None:
    source, graph, environment = manifest.source, manifest.graph, manifest.environment
    producer = f", by {source.producer}" if source.producer else ""
    facts.add_row("built from", escape(f"{source.file}{producer}, SHA-256 {source.sha256}"))
    tools = ", ".join(f"{name} {version}" for name, version in environment.tools.items())
    facts.add_row(
        "built", escape(f"{manifest.created:%Y-%m-%d %H:%M} UTC by plansmith {environment.plansmith}, {tools}")
    )
    if manifest.rolled_back_from is not None:
        facts.add_row("rolled back", f"from version {manifest.rolled_back_from}")
    facts.add_row("built on", escape(f"{environment.cpu}, {environment.system}"))
    facts.add_row("graph", escape(graph.in_words()))
    if graph.repairs:
        facts.add_row("repaired", escape("\n".join(graph.repairs)))
    if manifest.batching.reason:
        facts.add_row("no batches", escape(manifest.batching.reason))
    verification = manifest.verification
    lines = [
        f"{output.name}: empty, NaN or infinite: not verified"
        if not output.finite
        else f"{output.name}: relative error {output.max_relative_error:.2g}, {output.tolerance:g} allowed"
        if output.values_compared
        else f"{output.name}: random values, shapes compared"
        for output in verification.outputs
    ]
    lines.append(
        f"{verification.candidate}, on {verification.samples} {verification.inputs} samples"
        if lines
        else verification.candidate
    )
    facts.add_row("verified", escape("\n".join(lines)))

    if manifest.server_trial is not None:
        facts.add_row("tried", escape(manifest.server_trial.in_words()))


def _show_file(console: Terminal, report: OnnxReport) -> None:
    facts = facts_table()
    facts.add_row("file", escape(f"{report.path}, {decimal(report.size)}"))
    facts.add_row("SHA-256", report.sha256)
    facts.add_row("producer", escape(report.producer[:_PRODUCER] or "not said"))
    opsets = ", ".join(f"{domain} {version}" for domain, version in report.opsets.items())
    facts.add_row("versions", escape(f"IR {report.ir_version}, operator sets: {opsets}"))
    facts.add_row("inputs", escape(_lines(report.inputs)))
    facts.add_row("outputs", escape(_lines(report.outputs)))
    operators = ", ".join(f"{count} {name}" for name, count in report.operators.items())
    facts.add_row("nodes", escape(f"{report.nodes}: {operators}"))
    console.print(facts)


def _batch(max_batch_size: int | None) -> str:
    if max_batch_size is None:
        return "not said"
    return f"up to {max_batch_size}" if max_batch_size else "none"


def _lines(tensors: Iterable[object]) -> str:
    return "\n".join(map(str, tensors))
