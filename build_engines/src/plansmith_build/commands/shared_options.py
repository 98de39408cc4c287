"""Options that several commands on a model repository take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["PublicKeyOption", "RepositoryOption", "StagingOption"]

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
