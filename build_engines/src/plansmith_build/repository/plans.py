"""Which plans and engines of a model the TensorRT of this machine runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from plansmith_build.engines.tensorrt import plan_check
from plansmith_build.errors import InvalidModel
from plansmith_build.repository.companions import is_companion, models_of_ensemble
from plansmith_build.repository.model_repository import CONFIG, RepositoryModel

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.manifest import Manifest
    from plansmith_build.repository.model_repository import ModelRepository

__all__ = ["PlanCheck", "check_plans", "newest_versions", "own_models"]


@dataclass(frozen=True)
class PlanCheck:
    """What was found of a model, and of the steps of a pipeline as one with it.

    Attributes:
        count: how many plans and engines its newest version has.
        unfit: a sentence for each of them that does not run here.
        missing: what is not here and would tell: TensorRT, TensorRT for RTX.
        old: a sentence for each plan and engine of an older version that does not run here.
    """

    count: int
    unfit: tuple[str, ...]
    missing: tuple[str, ...]
    old: tuple[str, ...]


def own_models(repository: ModelRepository) -> tuple[RepositoryModel, ...]:
    """The models of a repository without the steps that belong to a pipeline."""
    models = [RepositoryModel(repository.path / name) for name in repository.names()]
    return tuple(model for model in models if not any(is_companion(model.path, owner) for owner in models))


def newest_versions(model: RepositoryModel) -> tuple[Path, ...]:
    """The folder of the newest version and, where it is a pipeline, those of its own steps; none without versions."""
    if not model.versions:
        return ()
    manifest = _manifest(model)
    try:
        names = models_of_ensemble(manifest.configs.get(CONFIG, "")) if manifest is not None else set()
    except InvalidModel:
        names = set()
    steps = [RepositoryModel(folder) for folder in _companions(model) if folder.name in names]
    return tuple(each.version_path(each.versions[-1]) for each in (model, *steps) if each.versions)


def check_plans(model: RepositoryModel) -> PlanCheck:
    """Compare the plans and engines of a model with the TensorRT and TensorRT for RTX that are here.

    Raises:
        OSError: a folder or a file cannot be read.
    """
    newest, manifest = newest_versions(model), _manifest(model)
    models = [model, *map(RepositoryModel, _companions(model))]
    there = [each.version_path(number) for each in models for number in each.versions]
    old = [folder for folder in there if folder not in newest]
    compatible = manifest is not None and "--version-compatible" in manifest.recipe
    plans = partial(plan_check.unfit_plans, version_compatible=compatible)
    count, missing, unfit, unfit_old = 0, [], [], []
    for kind, suffix, installed, look in (
        ("TensorRT", ".plan", plan_check.installed_version(), plans),
        ("TensorRT for RTX", ".engine", plan_check.installed_rtx_version(), plan_check.unfit_engines),
    ):
        found = sum(len(plan_check.find_plans(folder, suffix)) for folder in newest)
        count += found
        if installed is not None:
            unfit += [sentence for folder in newest for sentence in look(folder, installed)]
            unfit_old += [sentence for folder in old for sentence in look(folder, installed)]
        elif found:
            missing.append(kind)
    return PlanCheck(count, tuple(unfit), tuple(missing), tuple(unfit_old))


def _companions(model: RepositoryModel) -> list[Path]:
    return sorted(folder for folder in model.path.parent.iterdir() if is_companion(folder, model))


def _manifest(model: RepositoryModel) -> Manifest | None:
    """That of the newest version, None where plansmith has not written one."""
    try:
        return model.manifest(model.versions[-1]) if model.versions else None
    except InvalidModel:
        return None
