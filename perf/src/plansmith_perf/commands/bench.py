"""`plansmith bench`: measure a served model, compare results, report them.

`plansmith bench MODEL` is short for `plansmith bench run MODEL`; a model that is called like a command needs the long
form.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from plansmith_perf.commands.bench_diff import diff
from plansmith_perf.commands.bench_run import run

__all__ = ["bench"]


class _ModelOrCommand(TyperGroup):
    """A first word that is no command belongs to `run`."""

    # Any: whether the context is click's or that of typer's own copy depends on typer's version.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


bench = typer.Typer(
    cls=_ModelOrCommand,
    no_args_is_help=True,
    help="Measure how much a served model can take: `plansmith bench MODEL`, which is `plansmith bench run MODEL`.",
)
bench.command()(run)
bench.command()(diff)
