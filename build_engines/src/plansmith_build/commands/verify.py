"""`plansmith verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.linting.signatures import check_signatures
from plansmith_build.repository.model_repository import ModelRepository

__all__ = ["verify"]

EXIT_FOUND = 3
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def verify(
    repository: Annotated[Path, typer.Argument(help="The model repository.")] = Path("model_repository"),
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Only these models.")] = None,
    *,
    public_key: Annotated[
        Path | None,
        typer.Option(help="Also verify by this key (PEM) the signature of every version that is served."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON document.")] = False,
) -> None:
    """Check every file's SHA-256, every configuration and every model of a repository, whoever wrote it.

    Prints one line for each finding, with what to do about it. Exits with 3 if there are errors, with 0 if there are
    only warnings.

    For example:

        plansmith verify model_repository
    """
    where = ModelRepository.at(repository)
    findings = list(lint_repository(where, models or ()))
    if public_key is not None:
        for name in models or where.names():
            findings += check_signatures(where.existing_model(name), public_key)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if as_json:
        typer.echo(json.dumps({"errors": errors, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            style = _STYLES[finding.severity]
            console.print(
                f"{escape(finding.path)}: [{style}]{finding.severity}[/]: {escape(finding.message)}: "
                f"{escape(finding.fix)}"
            )
        checked = len(models or where.names())
        console.print(
            f"{checked} model{'' if checked == 1 else 's'} checked: {errors} error{'' if errors == 1 else 's'}, "
            f"{len(findings) - errors} warning{'' if len(findings) - errors == 1 else 's'}"
        )
    if errors:
        raise typer.Exit(EXIT_FOUND)
