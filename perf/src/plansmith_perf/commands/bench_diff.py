"""`plansmith bench diff`: whether two results differ by more than noise."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from plansmith_client.commands.options import JsonOption  # noqa: TC001
from plansmith_client.terminal import Terminal
from plansmith_perf.commands.shared_options import EXIT_MISSED
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.results.documents import read_result
from plansmith_perf.results.formatting import as_milliseconds, as_rate, as_share, load_name
from plansmith_perf.results.tables import NOTHING, Column, Table, print_table, visible

if TYPE_CHECKING:
    from plansmith_perf.results.differences import Change, Difference

__all__ = ["diff"]

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%?")
_COLUMNS = (
    *(Column("load, figure", "words"), Column("before"), Column("after"), Column("ratio")),
    *(Column("interval", spare=1), Column("chance", spare=2), Column("verdict", "name")),
)


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE.json", help="A result of `plansmith bench --output`.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER.json", help="A second result, of the same loads.")],
    *,
    fail_if_slower: Annotated[
        str | None,
        typer.Option(
            "--fail-if-slower", metavar="PERCENT", help="Exit with 3 if it got worse by more than this, such as 5%."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two results, and tell a difference from noise.

    For example:

        plansmith bench diff before.json after.json --fail-if-slower 5%
    """
    # scipy takes as long to import as the other commands take to start.
    from plansmith_perf.results.differences import difference  # noqa: PLC0415

    limit = _share(fail_if_slower) if fail_if_slower is not None else None
    found = difference(read_result(before), read_result(after))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _show(found, before.name, after.name)
    if limit is not None and (worse := found.worse(than=limit)):
        listed = "; ".join(f"{load_name(change.load)}: {change.figure}" for change in worse)
        Terminal(stderr=True).print(f"Worse by more than {as_share(limit)}: {listed}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_MISSED)
    if limit is not None and found.not_compared:
        loads = ", ".join(map(load_name, found.not_compared))
        raise LoadTestMisconfigured(
            f"--fail-if-slower cannot say that nothing got worse at {loads}: {after.name} lacks it, or there is too "
            "little data; measure the same loads, in three rounds or more"
        )


def _share(text: str) -> float:
    found = _PERCENT.fullmatch(text.strip())
    if found is None:
        raise LoadTestMisconfigured(f"--fail-if-slower must be a percentage such as 5%, got {text!r}")
    return float(found[1]) / 100


def _show(found: Difference, before: str, after: str) -> None:
    console = Terminal()
    rows: list[tuple[str, ...]] = []
    styles: list[str] = []
    for load, changes in groupby(found.changes, lambda change: change.load):
        figures = list(changes)
        rows += [(load_name(load), *[""] * (len(_COLUMNS) - 1)), *map(_cells, figures)]
        styles += ["bold", *({"better": "green", "worse": "red"}.get(change.verdict, "") for change in figures)]
    if rows:
        table = Table(f"before: {before}; after: {after}", _COLUMNS, tuple(rows))
        caption = "latencies in milliseconds; interval of the ratio at 95 %; chance of this by noise alone"
        print_table(console, table, caption=caption, styles=styles)
    for note in found.notes:
        console.print(visible(f"Note: {note}"), soft_wrap=True, markup=False, highlight=False)


def _cells(change: Change) -> tuple[str, ...]:
    number = {"answers/s": as_rate, "errors": as_share}.get(change.figure, as_milliseconds)
    return (
        f"  {change.figure}",
        number(change.before),
        number(change.after),
        f"{change.ratio:.3f}" if change.ratio is not None else NOTHING,
        f"{change.interval[0]:.3f} - {change.interval[1]:.3f}" if change.interval else NOTHING,
        f"{change.chance:.2g}" if change.chance is not None else NOTHING,
        change.verdict,
    )
