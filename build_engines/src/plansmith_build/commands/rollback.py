"""`plansmith rollback`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from plansmith_build.commands.build_display import RUNNING_SERVER
from plansmith_build.commands.shared_options import (  # noqa: TC001 - typer reads the annotations
    PublicKeyOption,
    RepositoryOption,
    StagingOption,
)
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.rollback import roll_back
from plansmith_build.repository.signed_versions import Signer
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal

__all__ = ["rollback"]


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The old version.")],
    *,
    repository: RepositoryOption = Path("model_repository"),
    sign_key: Annotated[Path | None, typer.Option(help="Sign the new version with this private key (PEM).")] = None,
    public_key: PublicKeyOption = None,
    staging: StagingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an old version of a model again, with the configurations and labels that it had.

    It gets the next number: a number is never used twice, so a server or a client that saw one knows what it is.

    For example:

        plansmith rollback resnet50 2
    """
    published = roll_back(
        ModelRepository.at(repository),
        model,
        version,
        staging=staging,
        sign=Signer(sign_key) if sign_key is not None else None,
        public_key=public_key,
    )
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "name": model,
                    "version": published.version,
                    "rolled_back_from": version,
                    "path": str(published.path),
                    "notes": published.notes,
                },
                indent=2,
            )
        )
        return
    console = Terminal(highlight=False, markup=False, soft_wrap=True)
    console.print(f"version {version} of {model} is published again as version {published.version}")
    for note in published.notes:
        console.print(f"note: {note}")
    console.print(RUNNING_SERVER)
