"""`plansmith verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from plansmith_build.commands.confinement import Limits, confined
from plansmith_build.commands.pull_requests import as_annotations, as_sarif
from plansmith_build.errors import InvalidOption
from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.linting.signatures import check_signatures
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_build.repository.linting import Finding

__all__ = ["verify"]

EXIT_FOUND = 3
_DEFAULT = Path("model_repository")
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


_Format = Literal["text", "json", "sarif", "github"]


def verify(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPOSITORY|MODEL",
            help="The model repository, then models if not all are meant; or models of ./model_repository alone.",
            show_default="model_repository",
        ),
    ] = None,
    *,
    repository: Annotated[Path | None, typer.Option("--repository", "-r", help="The model repository.")] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(help="Also verify by this key (PEM) the signature of every version that is served."),
    ] = None,
    form: Annotated[
        _Format,
        typer.Option(
            "--format", help="A line for each finding, one JSON or SARIF 2.1.0 document, or annotations for GitHub."
        ),
    ] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Check every file's SHA-256, every configuration and every model of a repository, whoever wrote it.

    Prints one line for each finding, with what to do about it. Exits with 3 if there are errors, with 0 if there are
    only warnings.

    For example:

        plansmith verify
        plansmith verify model_repository resnet50
        plansmith verify --format sarif > plansmith.sarif
    """
    if as_json:
        if form not in ("text", "json"):
            raise InvalidOption(f"--json and --format {form} ask for two formats: give one of them")
        form = "json"

    models = list(words or ())
    source = context.get_parameter_source("repository")
    if models and not (source and source.name == "COMMANDLINE"):
        # A folder is a repository, unless plansmith.toml names one with such a model.
        word = Path(models[0])
        is_model = word.name == models[0] and ((repository or _DEFAULT) / word).is_dir()
        named = word.is_dir() or not is_model if repository is None else word.is_dir() and not is_model
        repository = Path(models.pop(0)) if named else repository
    place = repository or _DEFAULT

    def work(_: Callable[[], None]) -> None:
        where = ModelRepository.at(place)
        findings = list(lint_repository(where, models))
        if public_key is not None:
            findings += check_signatures(where, public_key, models)
        errors = sum(finding.severity is Severity.ERROR for finding in findings)
        if form == "text":
            _show(findings, errors, checked=len(models or where.names()))
        else:
            typer.echo(_document(form, findings, errors, where.path))
        if errors:
            raise typer.Exit(EXIT_FOUND)

    # Its models are read and their shapes inferred.
    confined(work, Limits(), subject=str(place))


def _document(form: _Format, findings: Sequence[Finding], errors: int, repository: Path) -> str:
    if form == "github":
        return "\n".join(as_annotations(findings, repository))
    if form == "sarif":
        return json.dumps(as_sarif(findings, repository), indent=2)
    return json.dumps({"errors": errors, "findings": [asdict(finding) for finding in findings]}, indent=2)


def _show(findings: Sequence[Finding], errors: int, *, checked: int) -> None:
    console = Terminal(highlight=False, soft_wrap=True)
    for finding in findings:
        style = _STYLES[finding.severity]
        console.print(
            f"{escape(finding.path)}: [{style}]{finding.severity}[/]: {escape(finding.message)}: {escape(finding.fix)}"
        )
    warnings = len(findings) - errors
    console.print(
        f"{checked} model{'' if checked == 1 else 's'} checked: {errors} error{'' if errors == 1 else 's'}, "
        f"{warnings} warning{'' if warnings == 1 else 's'}"
    )
