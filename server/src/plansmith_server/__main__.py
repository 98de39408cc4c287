"""`python -m plansmith_server`: what `plansmith serve` does, without plansmith-client installed."""

from __future__ import annotations

import sys

import typer

from plansmith_server.commands.serve import serve
from plansmith_server.errors import ServerError
from plansmith_server.launcher.terminal import visible

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    application.command()(serve)
    try:
        application(prog_name="python -m plansmith_server")
    except ServerError as error:
        print(f"Error: {visible(str(error))}", file=sys.stderr)  # noqa: T201 - the one sentence that the user gets
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
