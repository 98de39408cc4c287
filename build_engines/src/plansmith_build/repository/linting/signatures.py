"""Signatures of the served versions, and of the configurations and labels that are served with them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.regular_files import sha256_of
from plansmith_build.repository.linting.findings import error, warning
from plansmith_build.repository.model_repository import COMPANION, HISTORY
from plansmith_build.repository.pruning import served_versions
from plansmith_build.repository.signed_versions import SIGNED, command_to_list, signed_versions
from plansmith_build.repository.signing import SIGNATURE, SignatureInvalid, verify_signature
from plansmith_build.repository.warmup import WARMUP

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from plansmith_build.repository.linting.findings import Finding
    from plansmith_build.repository.manifest import Manifest
    from plansmith_build.repository.model_repository import ModelRepository, RepositoryModel

__all__ = ["check_signatures"]

# A person's notes, and what `edits.set_aside` renames: no server reads either.
_KEPT = re.compile(r".*\.md|.*\.pbtxt\.before-[0-9]+(\.[0-9]+)?")


def check_signatures(repository: ModelRepository, public_key: Path, models: Collection[str] = ()) -> Iterator[Finding]:
    """Every version that is listed or served, the newest version, the files next to them, and the history.

    A repository that was restored as a whole to an earlier state passes: it is as it was signed then.

    Args:
        repository: an existing repository.
        public_key: the owner's key, PEM.
        models: the models to look at; empty for all, and then there has to be a list of them.

    Raises:
        InvalidOption: the model-signing package is missing, or the key cannot be read.
        ModelNotFound: there is no such model.
    """
    listed: dict[str, set[int]] | None = None
    restore = f"restore it from a copy, or, where that was you, sign what is there: {command_to_list(repository.path)}"
    try:
        versions = signed_versions(repository.path, public_key)
    except SignatureInvalid as problem:
        yield error(SIGNED, str(problem), restore)
    else:
        if versions is not None:
            listed = {name: {version for model, version in versions if model == name} for name, _ in versions}
        elif not models and any(repository.path.glob(f"*/*/{SIGNATURE}")):
            yield error(SIGNED, "it is missing, so it is not known which models and versions were signed", restore)
    for name in sorted({*(listed or ())} - {*repository.names()}):
        if not models:
            yield error(name, "it was signed and is missing", restore)
    for name in models or repository.names():
        of_model = listed.get(name, set()) if listed is not None else None
        yield from _check_model(repository.existing_model(name), public_key, of_model, restore)


def _check_model(model: RepositoryModel, public_key: Path, listed: set[int] | None, restore: str) -> Iterator[Finding]:
    newest, there = model.versions[-1:], set(model.versions)
    try:
        served = {*newest, *served_versions(model)}
    except InvalidModel:
        # A configuration that cannot be read is reported by another check; any version might be served.
        served = there
    for version in sorted((listed or set()) - there):
        yield error(f"{model.name}/{version}", "it was signed and is missing", restore)
    for version in sorted((served | (listed or set())) & there):
        if listed is not None and version not in listed and os.path.lexists(model.path / str(version) / SIGNATURE):
            yield error(f"{model.name}/{version}", f"{SIGNED} does not list it: it was put here", restore)
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
        ours = name == HISTORY or (name == COMPANION and "." in model.name)
        if not path.is_file() or ours or name.startswith(versions):
            continue
        where = f"{model.name}/{name}"
        if name in signed and sha256_of(path) == signed[name]:
            continue
        # A sample that another version brought is named after its content, and no signed configuration names it.
        is_sample = path.parent == model.path / WARMUP and path.name == sha256_of(path)
        if name not in signed and (_KEPT.fullmatch(path.name) or is_sample):
            yield warning(where, "no signature covers it", "remove it unless it is yours")
            continue
        # A configuration, a warm-up sample, a state, a backend's library: a server may take any from a model's folder.
        yield error(
            where,
            f"it differs from what was signed with version {manifest.version}",
            "publish the model again, signed, or remove it",
        )
