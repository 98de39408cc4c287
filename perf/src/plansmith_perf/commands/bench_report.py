"""`plansmith bench report`: results as a page to read, as Markdown or as CSV."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from plansmith_client.commands.options import JsonOption  # noqa: TC001
from plansmith_client.terminal import Terminal
from plansmith_perf.report import check_report_path, name_documents, summarize, write_report

__all__ = ["report", "write_report"]


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT", help="Files that bench, bench compare, tune --json or Locust wrote."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The ending is the format: .html, .md or .csv.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Write results as one page with plots, as Markdown for a pull request, or as CSV.

    For example:

        plansmith bench report before.json after.json --output report.html
    """
    check_report_path(output)
    documents = name_documents(results)
    write_report(documents, output)
    summary = summarize(documents)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "report": str(output),
                    "bytes": output.stat().st_size,
                    "results": list(documents),
                    "summary": summary.answers,
                    "warnings": summary.warnings,
                    "notes": summary.notes,
                },
                indent=2,
            )
        )
        return
    console = Terminal(soft_wrap=True)
    for sentence in (*summary.answers, *(f"Mind: {warning}" for warning in summary.warnings)):
        console.print(sentence, markup=False, highlight=False)
    console.print(f"The report is in {output}", markup=False, highlight=False)
