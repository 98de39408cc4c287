"""`plansmith upgrade`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plansmith_build.commands.build import build
from plansmith_build.commands.recipe import refuse_unsafe
from plansmith_build.commands.shared_options import PublicKeyOption, RepositoryOption  # noqa: TC001 - typer reads the annotations
from plansmith_build.errors import BuildError, InvalidOption
from plansmith_build.repository.model_repository import ModelRepository, RepositoryModel
from plansmith_build.repository.plans import check_plans, newest_versions, own_models
from plansmith_build.repository.signing import require_public_key, verify_signature
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plansmith_build.repository.plans import PlanCheck

__all__ = ["upgrade"]

_EXIT_FAILED = 1
_EXIT_FOUND = 3
# -P: without it, Python would import what lies in the current folder.
_PLANSMITH = (sys.executable, "-P", "-c", "from plansmith_client.cli import main; main()")
_REMEDIES = {
    "TensorRT": "run this in the builder of the new release: docker compose --profile build run --rm builder upgrade",
    "TensorRT for RTX": "add the extra rtx of plansmith-build",
}


def upgrade(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="The models.", show_default="every one")
    ] = None,
    *,
    repository: RepositoryOption = Path("model_repository"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and build nothing; exit code 3 if there is any.")
    ] = False,
    sign_key: Annotated[Path | None, typer.Option(help="Sign the new versions with this private key (PEM).")] = None,
    public_key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild models whose TensorRT plan or engine does not run on this machine, with the options they were built with.

    Looks at the plans and engines of each model's newest version, and at the TensorRT and TensorRT for RTX that are
    here: run it in the builder of the new release, in the folder that the models were built in. The next version is
    made by `plansmith build` from the same file with the options recorded in the manifest; the version before stays
    until `plansmith prune`. Exit code 1: a model could not be built, for the reason that is said; all others were.

    For example:

        plansmith upgrade --dry-run
        plansmith upgrade --repository next
    """
    where = ModelRepository.at(repository)
    where.require()
    looked = [where.existing_model(name) for name in models] if models else own_models(where)
    found, not_built = _found(looked, repository, public_key, sign=sign_key is not None)
    console = Terminal(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(found)} of {len(looked)} models to be built again")
    key = [f"--sign-key={sign_key}"] if sign_key is not None else []
    for entry in found:
        for sentence in entry["reasons"]:
            console.print(f"{entry['name']}: {sentence}")
        command = [*entry.pop("command"), f"--repository={repository}", *key]
        console.print(f"$ plansmith {shlex.join(command)}")
        entry["exit_code"] = None if dry_run else _build(command)
        if entry["exit_code"]:
            not_built[entry["name"]] = f"plansmith build ended with exit code {entry['exit_code']}"
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "models": found, "not_built": not_built}, indent=2))
    for name, reason in not_built.items():
        console.print(f"not built: {name}: {reason}")
    if dry_run and found:
        raise typer.Exit(_EXIT_FOUND)
    if not_built:
        raise typer.Exit(_EXIT_FAILED)


def _found(
    models: Iterable[RepositoryModel], repository: Path, public_key: Path | None, *, sign: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The models to be built again with their commands, and why others cannot be, by name.

    Raises:
        InvalidOption: a version is signed, and there is no key to verify it by.
    """
    found: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for model in models:
        try:
            check = check_plans(model)
        except OSError as error:
            refused[model.name] = f"{error.filename} cannot be read: {error.strerror}"
            continue
        folders = newest_versions(model) if check.unfit or check.missing else ()
        if sign:
            for folder in folders:
                require_public_key(RepositoryModel(folder.parent), public_key)
        try:
            if folders:
                words = _words(model, check, repository, public_key)
                found.append({"name": model.name, "reasons": check.unfit, **words})
        except BuildError as error:
            refused[model.name] = str(error)
    return found, refused


def _build(words: list[str]) -> int:
    """The exit code of `plansmith build`, whose result goes where its progress goes: standard error."""
    return subprocess.run([*_PLANSMITH, *words], check=False, stdout=sys.stderr.fileno()).returncode


def _words(model: RepositoryModel, check: PlanCheck, repository: Path, public_key: Path | None) -> dict[str, Any]:
    """The recorded recipe and the command that it makes.

    Raises:
        BuildError: it cannot be built again: there is no TensorRT, or no recipe that may be used.
    """
    if check.missing:
        raise InvalidOption(
            "; ".join(f"there is no {kind} here to compare with: {_REMEDIES[kind]}" for kind in check.missing)
        )
    folders = newest_versions(model)
    if public_key is not None:
        for folder in folders:
            verify_signature(folder, public_key)
    manifests = [RepositoryModel(folder.parent).manifest(int(folder.name)) for folder in folders]
    recipe = manifests[0].recipe
    application = typer.Typer()
    application.command()(build)
    refuse_unsafe(recipe, model.name, typer.main.get_command(application), repository)
    # The last name wins: a recipe cannot publish as another model.
    sources = dict.fromkeys(f"--source-sha256={manifest.source.sha256}" for manifest in manifests)
    return {"recipe": recipe, "command": ["build", *recipe, f"--name={model.name}", *sources]}
