"""Options that the sub-commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["JsonOption", "PublicKeyOption", "RepositoryOption", "StagingOption", "TimeoutOption", "UrlOption"]

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
RepositoryOption = Annotated[Path, typer.Option("--repository", "-r", help="The model repository.")]
StagingOption = Annotated[
    Path | None,
    typer.Option(
        "--staging",
        help="Folder to work in, outside the repository and on the same file system.",
        show_default="the repository's parent",
    ),
]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        help="Verify by this key (PEM) the signatures that are there first; needed to sign anew what was signed.",
    ),
]
