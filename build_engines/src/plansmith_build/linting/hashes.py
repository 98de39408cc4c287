"""Whether a version is what was published: every file's SHA-256 against its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel
from plansmith_build.hashing import sha256_of
from plansmith_build.linting.findings import error, warning
from plansmith_build.manifest import read_manifest
from plansmith_build.repository import MANIFEST
from plansmith_build.signing import SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.linting.findings import Finding
    from plansmith_build.manifest import PublishedFile
    from plansmith_build.repository import RepositoryModel

__all__ = ["check_hashes"]


def check_hashes(model: RepositoryModel) -> Iterator[Finding]:
    """The files of each version, and the configurations and labels of the newest one."""
    for version in model.versions:
        folder = model.version_path(version)
        where = f"{model.name}/{version}"
        if not (folder / MANIFEST).is_file():
            yield warning(where, "there is no manifest, so nothing says what its files should be", "build it anew")
            continue
        try:
            manifest = read_manifest(folder / MANIFEST)
        except InvalidModel as problem:
            yield error(f"{where}/{MANIFEST}", str(problem), "publish the version anew")
            continue
        for file in manifest.files:
            # Configurations and labels belong to the model and go with its newest version.
            if file.path.startswith(f"{version}/") or version == model.versions[-1]:
                yield from _check_file(model, file, own=file.path.startswith(f"{version}/"))
        recorded = {model.path / file.path for file in manifest.files}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path not in recorded and path.name not in {MANIFEST, SIGNATURE}:
                yield warning(f"{model.name}/{path.relative_to(model.path)}", "it was not published", "remove it")


def _check_file(model: RepositoryModel, file: PublishedFile, *, own: bool) -> Iterator[Finding]:
    path = model.path / file.path
    where = f"{model.name}/{file.path}"
    if not path.resolve().is_relative_to(model.path):
        yield error(where, "the manifest names a file outside the model", "publish the version anew")
    elif not path.is_file():
        yield error(where, "it was published and is gone", _rollback(model))
    elif path.stat().st_size != file.size or sha256_of(path) != file.sha256:
        if own:
            yield error(where, "it is not what was published", _rollback(model))
        else:
            yield warning(where, "it was changed after it was published", "build again, if it is not meant so")


def _rollback(model: RepositoryModel) -> str:
    return f"build it again, or go back: plansmith rollback {model.name} VERSION"
