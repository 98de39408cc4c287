"""Signatures of the served versions, and of the configurations and labels that are served with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel
from plansmith_build.repository.hashing import sha256_of
from plansmith_build.repository.linting.findings import error, warning
from plansmith_build.repository.linting.safety import PYTHON_STUB
from plansmith_build.repository.model_repository import COMPANION, HISTORY
from plansmith_build.repository.pruning import served_versions
from plansmith_build.repository.signing import SignatureInvalid, verify_signature

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plansmith_build.repository.linting.findings import Finding
    from plansmith_build.repository.manifest import Manifest
    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = ["check_signatures"]


def check_signatures(model: RepositoryModel, public_key: Path) -> Iterator[Finding]:
    """Every version that a configuration serves, the newest version, the files next to them, and the history.

    A repository that was restored as a whole to an earlier state passes: it is as it was signed then.

    Raises:
        InvalidOption: the model-signing package is missing, or the key cannot be read.
    """
    newest = model.versions[-1:]
    try:
        versions = {*newest, *served_versions(model)} & set(model.versions)
    except InvalidModel:
        # A configuration that cannot be read is reported by another check; any version might be served.
        versions = set(model.versions)
    for version in sorted(versions):
        try:
            verify_signature(model.version_path(version), public_key)
            manifest = model.manifest(version)
        except (SignatureInvalid, InvalidModel) as problem:
            yield error(f"{model.name}/{version}", str(problem), "build it again with --sign-key")
        else:
            yield from _check_listed(model, manifest)
            if version in newest:
                yield from _check_beside(model, manifest)


def _check_listed(model: RepositoryModel, manifest: Manifest) -> Iterator[Finding]:
    """Whether history.json says of a version what its signed manifest says."""
    where = f"{model.name}/{HISTORY}"
    try:
        listed = {entry.version: entry for entry in model.history.versions}
    except InvalidModel:
        # Reported by another check.
        return
    if not os.path.lexists(model.path / HISTORY):
        yield error(where, f"it is missing, and version {manifest.version} is signed", "restore it from a copy")
    elif (entry := listed.get(manifest.version)) is not None and (entry.created, entry.source_sha256) != (
        manifest.created,
        manifest.source.sha256,
    ):
        yield error(
            where, f"it differs from the signed manifest of version {manifest.version}", "restore it from a copy"
        )


def _check_beside(model: RepositoryModel, manifest: Manifest) -> Iterator[Finding]:
    """The files outside the signed folder; the signed manifest holds the hashes of those that belong to the version."""
    signed = {file.path: file.sha256 for file in manifest.files}
    versions = tuple(f"{version}/" for version in model.versions)
    for path in sorted(model.path.rglob("*")):
        name = str(path.relative_to(model.path))
        if not path.is_file() or name in (COMPANION, HISTORY) or name.startswith(versions):
            continue
        where = f"{model.name}/{name}"
        if name in signed and sha256_of(path) == signed[name]:
            continue
        # A server takes a backend's library, and the program that runs Python, from a model's folder before its own.
        runs = path.suffix == ".so" or path.name == PYTHON_STUB
        if name in signed or name in model.configurations or runs:
            yield error(
                where,
                f"it differs from what was signed with version {manifest.version}",
                "publish the model again, signed, or remove it",
            )
        else:
            yield warning(where, "no signature covers it", "remove it unless it is yours")
