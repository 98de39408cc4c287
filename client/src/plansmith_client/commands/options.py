"""Options that the sub-commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["JsonOption", "TimeoutOption", "UrlOption"]

UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="PLANSMITH_URL",
        help="The server: host:port for gRPC, http://host:port for HTTP.",
        show_envvar=True,
    ),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds that a call may take in total.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
