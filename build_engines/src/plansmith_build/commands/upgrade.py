"""`plansmith upgrade`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plansmith_build.commands.recipe import refuse_unsafe
from plansmith_build.engines.tensorrt import plan_check
from plansmith_build.errors import InvalidOption
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client.terminal import Terminal

if TYPE_CHECKING:
    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = ["upgrade"]

_EXIT_FAILED = 1
_EXIT_FOUND = 3
_PLANSMITH = (sys.executable, "-c", "from plansmith_client.cli import main; main()")


def upgrade(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="The models.", show_default="every one")
    ] = None,
    *,
    repository: Annotated[Path, typer.Option("--repository", "-r", help="The model repository.")] = Path(
        "model_repository"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and build nothing; exit code 3 if there is any.")
    ] = False,
    sign_key: Annotated[Path | None, typer.Option(help="Sign the new versions with this private key (PEM).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Build again what the TensorRT of this machine does not run, as it was built before.

    Looks at the plans and engines of each model's newest version, and at the TensorRT and TensorRT for RTX that are
    here: run it in the builder of the new release, in the folder that the models were built in. The next version is
    made by the words of `plansmith build` that the manifest keeps; the version before stays until `plansmith prune`.

    For example:

        plansmith upgrade --dry-run
        plansmith upgrade --repository next
    """
    where = ModelRepository.at(repository)
    unfit = {name: _unfit(where.existing_model(name)) for name in models or where.names()}
    unfit = {name: sentences for name, sentences in unfit.items() if sentences}
    recipes = {name: _recipe(where.existing_model(name)) for name in unfit}
    console = Terminal(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(unfit)} of {len(models or where.names())} models to be built again")
    found: list[dict[str, Any]] = []
    for name, sentences in unfit.items():
        for sentence in sentences:
            console.print(f"{name}: {sentence}")
        command = ["build", *recipes[name], f"--repository={repository}"]
        command += [f"--sign-key={sign_key}"] if sign_key is not None else []
        console.print(f"$ plansmith {shlex.join(command)}")
        code = None if dry_run else _build(command)
        found.append({"name": name, "reasons": sentences, "recipe": recipes[name], "exit_code": code})
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "models": found}, indent=2))
    if failed := [entry["name"] for entry in found if entry["exit_code"]]:
        console.print(f"not built: {', '.join(failed)}")
        raise typer.Exit(_EXIT_FAILED)
    if dry_run and found:
        raise typer.Exit(_EXIT_FOUND)


def _build(words: list[str]) -> int:
    """The exit code of `plansmith build`, whose result goes where its progress goes: standard error."""
    return subprocess.run([*_PLANSMITH, *words], check=False, stdout=sys.stderr.fileno()).returncode


def _recipe(model: RepositoryModel) -> tuple[str, ...]:
    recipe = model.manifest(model.versions[-1]).recipe
    refuse_unsafe(recipe, model.name)
    return recipe


def _unfit(model: RepositoryModel) -> list[str]:
    """A sentence for each plan and engine of the newest version that does not run here."""
    if not model.versions:
        return []
    folder = model.version_path(model.versions[-1])
    sentences = []
    if plan_check.find_plans(folder):
        installed = plan_check.installed_version()
        if installed is None:
            raise InvalidOption(
                f"{model.name} has plans, and there is no TensorRT here to build them with: run this in the builder "
                "of the new release: docker compose run --rm builder upgrade"
            )
        compatible = "--version-compatible" in model.manifest(model.versions[-1]).recipe
        sentences += plan_check.unfit_plans(folder, installed, version_compatible=compatible)
    if plan_check.find_plans(folder, ".engine"):
        rtx = plan_check.installed_rtx_version()
        if rtx is None:
            raise InvalidOption(
                f"{model.name} has engines of TensorRT for RTX, which is not installed here: add the extra rtx of "
                "plansmith-build"
            )
        sentences += plan_check.unfit_engines(folder, rtx)
    return sentences
