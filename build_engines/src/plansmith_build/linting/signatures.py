"""Signatures of what is served, and of the configurations that say what is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel
from plansmith_build.linting.findings import error
from plansmith_build.manifest import read_manifest
from plansmith_build.pruning import served_versions
from plansmith_build.repository import MANIFEST
from plansmith_build.signing import SignatureInvalid, verify_signature

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plansmith_build.linting.findings import Finding
    from plansmith_build.repository import RepositoryModel

__all__ = ["check_signatures"]


def check_signatures(model: RepositoryModel, public_key: Path) -> Iterator[Finding]:
    """Every version that a configuration serves, the newest one, and the configurations beside its signed manifest.

    Raises:
        InvalidOption: the model-signing package is missing, or the key cannot be read.
    """
    newest = model.versions[-1:]
    try:
        versions = {*newest, *served_versions(model)} & set(model.versions)
    except InvalidModel:
        # What cannot be read is an error of its own; any version might be served.
        versions = set(model.versions)
    for version in sorted(versions):
        try:
            verify_signature(model.version_path(version), public_key)
        except SignatureInvalid as problem:
            yield error(f"{model.name}/{version}", str(problem), "publish it anew, signed")
        else:
            if version in newest:
                yield from _check_configurations(model, version)


def _check_configurations(model: RepositoryModel, version: int) -> Iterator[Finding]:
    """They lie outside the signed folder, and its manifest, which is signed, holds their text."""
    try:
        signed = read_manifest(model.version_path(version) / MANIFEST).configs
    except InvalidModel:
        signed = {}
    for name, path in model.configurations.items():
        if name not in signed or path.read_bytes() != signed[name].encode():
            yield error(
                f"{model.name}/{name}",
                f"it is not what was signed with version {version}",
                "publish the model anew, signed, or remove it",
            )
