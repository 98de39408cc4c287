"""`plansmith bench`: measure a served model, compare results and peers, report them.

`plansmith bench MODEL` is short for `plansmith bench run MODEL`; a model with the name of a command needs the long
form.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from plansmith_client.cli import show_plain_types

__all__ = ["bench"]

COMMANDS = ("run", "compare", "diff", "report")


class _ModelOrCommand(TyperGroup):
    """Imports only the command that is called; a first word that is not a command is the model of `run`.

    The contexts are Any: whether they are click's or those of typer's own copy depends on typer's version.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in COMMANDS and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        application = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        application.command(cmd_name)(getattr(import_module(f"plansmith_perf.commands.bench_{cmd_name}"), cmd_name))
        command = typer.main.get_command(application)
        show_plain_types(command, ctx)
        return command


bench = typer.Typer(cls=_ModelOrCommand, no_args_is_help=True, rich_markup_mode="markdown")


@bench.callback()
def about() -> None:
    """Measure how much a served model can take: `plansmith bench MODEL`, which is `plansmith bench run MODEL`.

    For example:

        plansmith bench resnet50
        plansmith bench diff before.json after.json
    """
