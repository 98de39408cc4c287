"""`plansmith locust`: Locust with plansmith's users, in place of this process."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

__all__ = ["locust"]


class _Locust(TyperGroup):
    """Gives all words to Locust, whose options are its own to read. The context's type depends on typer's version."""

    def parse_args(self, ctx: Any, args: list[str]) -> NoReturn:  # noqa: ARG002
        # Another program: Locust patches the process that imports it, and signals reach it without a detour.
        os.execv(sys.executable, [sys.executable, "-P", "-m", "plansmith_perf.locust", *args])  # noqa: S606


locust = typer.Typer(cls=_Locust)


@locust.callback()
def about() -> None:
    """Load a served model with Locust: a web page to watch, many machines, users of your own."""
