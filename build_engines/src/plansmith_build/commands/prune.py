"""`plansmith prune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from plansmith_build.errors import InvalidOption
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.pruning import prunable_versions
from plansmith_build.repository.pruning import prune as prune_model
from plansmith_build.repository.signed_versions import Signer
from plansmith_client.terminal import Terminal

__all__ = ["prune"]


def prune(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="The models.")] = None,
    *,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest versions stay.")],
    every: Annotated[bool, typer.Option("--all", help="All models of the repository.")] = False,
    repository: Annotated[Path, typer.Option("--repository", "-r", help="The model repository.")] = Path(
        "model_repository"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    sign_key: Annotated[
        Path | None,
        typer.Option(help="Sign the list of what remains with this key (PEM); with --all, of all that is there."),
    ] = None,
    staging: Annotated[
        Path | None, typer.Option(help="Folder to move versions to first.", show_default="the repository's parent")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
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
    if sign is not None and every:
        sign.list_anew(where.path)
    removed = {
        name: prunable_versions(where.existing_model(name), keep=keep)
        if dry_run
        else prune_model(where, name, keep=keep, staging=staging, sign=sign)
        for name in models or where.names()
    }
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "removed": removed}, indent=2))
        return
    console = Terminal(highlight=False, markup=False, soft_wrap=True)
    for name, versions in removed.items():
        what = ", ".join(map(str, versions)) or "nothing"
        console.print(f"{name}: {'would remove' if dry_run else 'removed'} {what}")
