"""`plansmith prune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from plansmith_build.commands.shared_options import RepositoryOption, StagingOption  # noqa: TC001 - typer reads the annotations
from plansmith_build.errors import InvalidOption
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.pruning import prunable_versions
from plansmith_build.repository.pruning import prune as prune_model
from plansmith_build.repository.signed_versions import Signer
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal

__all__ = ["prune"]


def prune(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="The models.")] = None,
    *,
    keep: Annotated[int | None, typer.Option(min=1, help="How many of the newest versions stay.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All models of the repository.")] = False,
    repository: RepositoryOption = Path("model_repository"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            help="Sign the list of what remains with this key (PEM). With --all and without --keep nothing is "
            "removed, and all signed versions that are there are listed anew."
        ),
    ] = None,
    staging: StagingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions of models, except those that a configuration serves.

    A version vanishes from the repository in one step. Its number is never given again.

    For example:

        plansmith prune resnet50 --keep 2 --dry-run
    """
    if bool(models) == every:
        raise InvalidOption("name the models to prune, or give --all")
    where = ModelRepository.at(repository)
    where.require()
    sign = Signer(sign_key) if sign_key is not None and not dry_run else None
    result: dict[str, object] = {"dry_run": dry_run}
    done = {}
    if keep is not None:
        said = "would remove" if dry_run else "removed"
        for name in models or where.names():
            if every and name not in where.names():
                # A step of a pipeline's old version, which went with it.
                continue
            done[name] = (
                prunable_versions(where.existing_model(name), keep=keep)
                if dry_run
                else prune_model(where, name, keep=keep, staging=staging, sign=sign)
            )
        result["removed"] = done
    elif every and sign is not None:
        said = "listed"
        result["listed"] = done = sign.list_anew(where.path)
    else:
        raise InvalidOption(
            "say with --keep how many of the newest versions stay; without it, --all --sign-key lists anew the signed "
            "versions that are there"
        )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    console = Terminal(highlight=False, markup=False, soft_wrap=True)
    for name, versions in done.items():
        console.print(f"{name}: {said} {', '.join(map(str, versions)) or 'nothing'}")
