"""Whether a model is what was published: the SHA-256 of every file against the manifest, and the history."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import ValidationError

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.regular_files import read_regular, sha256_of
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting.context import backend_of, model_files
from plansmith_build.repository.linting.findings import error, warning
from plansmith_build.repository.model_repository import HISTORY, MANIFEST, History
from plansmith_build.repository.signing import SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plansmith_build.repository.linting.findings import Finding
    from plansmith_build.repository.manifest import Manifest, PublishedFile
    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = ["check_hashes"]


def check_hashes(model: RepositoryModel) -> Iterator[Finding]:
    """The files of each version, the configurations and labels of the newest one, and the history."""
    try:
        known = {entry.version for entry in model.history.versions}
    except InvalidModel:
        # Reported below.
        known = set()
    described = set()
    for version in model.versions:
        folder = model.version_path(version)
        where = f"{model.name}/{version}"
        if not (folder / MANIFEST).is_file():
            if version in known:
                yield error(f"{where}/{MANIFEST}", "it was published and is missing", _rollback(model))
            else:
                yield warning(where, "there is no manifest, so its files cannot be checked", "build it again")
            continue
        described.add(version)
        try:
            manifest = model.manifest(version)
        except InvalidModel as problem:
            yield error(f"{where}/{MANIFEST}", str(problem), "publish the version again")
            continue
        yield from _check_version(model, manifest)
    yield from _check_history(model, described)


def _check_version(model: RepositoryModel, manifest: Manifest) -> Iterator[Finding]:
    version = manifest.version
    newest = version == model.versions[-1]
    for file in manifest.files:
        # Configurations and labels belong to the model and go with its newest version.
        if file.path.startswith(f"{version}/") or newest:
            yield from _check_file(model, file, own=file.path.startswith(f"{version}/"))
    folder = model.version_path(version)
    recorded = {model.path / file.path for file in manifest.files} | {folder / MANIFEST, folder / SIGNATURE}
    loaded = _loaded(model, folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in recorded:
            where = f"{model.name}/{path.relative_to(model.path)}"
            if path in loaded:
                yield error(where, "it was never published, and a server would load it", "remove it")
            else:
                yield warning(where, "it was never published", "remove it")
    if newest:
        for name, path in model.configurations.items():
            if path not in recorded:
                yield warning(
                    f"{model.name}/{name}",
                    f"it was not published with version {version}",
                    "remove it unless it is yours",
                )


def _loaded(model: RepositoryModel, folder: Path) -> set[Path]:
    """What a server would load from a version's folder, whether it was published or not."""
    # Before its own folders, Triton looks here for a backend's library.
    loaded = set(folder.rglob("*.so"))
    for path in model.configurations.values():
        try:
            config = config_from_text(read_regular(path).decode())
        except (InvalidModel, OSError, UnicodeDecodeError):
            # Reported by another check.
            continue
        loaded.update(file for _, file in model_files(config, folder))
        if backend_of(config) == "python":
            loaded.update(folder.rglob("*.py"))
    return loaded


def _check_history(model: RepositoryModel, described: set[int]) -> Iterator[Finding]:
    """Whether history.json lists the versions that plansmith published, and the newest still exists."""
    path, where = model.path / HISTORY, f"{model.name}/{HISTORY}"
    if not os.path.lexists(path):
        if described:
            yield warning(where, "it is missing, so the number of a removed version may be reused", "restore it")
        return
    try:
        history = History.model_validate_json(read_regular(path))
    except (OSError, ValidationError):
        yield error(
            where, "it cannot be read, so the number of a removed version may be reused", "restore it from a copy"
        )
        return
    known = {entry.version for entry in history.versions}
    for version in sorted(described - known):
        yield error(
            f"{model.name}/{version}", "history.json does not list it", "restore history.json, or build it again"
        )
    if known and max(known) > max(model.versions, default=0):
        yield error(
            f"{model.name}/{max(known)}", "it was published last and is missing", "restore it, or build the model again"
        )


def _check_file(model: RepositoryModel, file: PublishedFile, *, own: bool) -> Iterator[Finding]:
    path = model.path / file.path
    where = f"{model.name}/{file.path}"
    if not path.resolve().is_relative_to(model.path):
        yield error(where, "the manifest names a file outside the model", "publish the version again")
    elif not path.is_file():
        yield error(where, "it was published and is missing", _rollback(model))
    elif path.stat().st_size != file.size or sha256_of(path) != file.sha256:
        if own:
            yield error(where, "it differs from what was published", _rollback(model))
        else:
            yield warning(where, "it was changed after it was published", "build again unless the change is intended")


def _rollback(model: RepositoryModel) -> str:
    return f"build it again, or restore an older version: plansmith rollback {model.name} VERSION"
