"""Publishing an old version anew: numbers only grow, so that no server and no client sees one change its meaning."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plansmith_build.config import config_from_text
from plansmith_build.errors import InvalidModel, InvalidOption, PublishFailed
from plansmith_build.filesystem import explain_os_error
from plansmith_build.hashing import sha256_of
from plansmith_build.linting.context import model_files
from plansmith_build.manifest import read_manifest
from plansmith_build.publishing import Published, Release, publish
from plansmith_build.repository import CONFIG, MANIFEST
from plansmith_build.staging import staging_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plansmith_build.manifest import Manifest, PublishedFile
    from plansmith_build.repository import ModelRepository, RepositoryModel

__all__ = ["roll_back"]


def roll_back(
    repository: ModelRepository,
    name: str,
    version: int,
    *,
    staging: Path | None = None,
    sign: Callable[[Path], None] | None = None,
) -> Published:
    """Publish an old version, with its own configurations and labels, under the next number.

    Args:
        repository: an existing one.
        name: the model's.
        version: an old version that is still there, unchanged.
        staging: the folder to stage in; see `staging_folder`.
        sign: signs the new version; see `signing.signer`.

    Raises:
        ModelNotFound: there is no such model or version.
        InvalidOption: the version is the newest one already.
        InvalidModel: it has no manifest, or its files are not what was published.
        PublishFailed: the system did not let it be written.
    """
    model = repository.existing_model(name)
    folder = model.version_path(version)
    if version == model.versions[-1]:
        raise InvalidOption(f"version {version} of {name!r} is the newest one: there is nothing to roll back to")
    manifest = read_manifest(folder / MANIFEST)
    _check_unchanged(model, manifest, version)
    configs = manifest.configs or _present_config(model, folder)
    with staging_folder(repository.path, staging) as stage:
        files = _copies(model, manifest, version, stage / "files")

        def describe(number: int, published: tuple[PublishedFile, ...]) -> Manifest:
            return manifest.model_copy(
                update={
                    "version": number,
                    "created": datetime.now(UTC).replace(microsecond=0),
                    "files": published,
                    "rolled_back_from": version,
                }
            )

        release = Release(
            model_files=files,
            labels=manifest.labels.encode() if manifest.labels is not None else None,
            configure=lambda _: configs,
            describe=describe,
        )
        return publish(repository, name, replace(release, sign=sign), staging=stage)


def _check_unchanged(model: RepositoryModel, manifest: Manifest, version: int) -> None:
    for file in manifest.files:
        path = model.path / file.path
        if not file.path.startswith(f"{version}/"):
            continue
        if not path.is_file() or path.stat().st_size != file.size or sha256_of(path) != file.sha256:
            raise InvalidModel(
                f"{path} is not what was published as version {version}: it cannot be published anew. "
                "Build the model again"
            )


def _present_config(model: RepositoryModel, folder: Path) -> dict[str, str]:
    """For versions of before manifests held their configurations: the present one, where it fits."""
    path = model.path / CONFIG
    try:
        text = path.read_text(encoding="utf-8")
        fits = all(file.exists() for _, file in model_files(config_from_text(text), folder))
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read, and the version's manifest has no copy: build it again") from error
    if not fits:
        raise InvalidModel(f"{path} names files that version {folder.name} does not have: build it again")
    return {CONFIG: text}


def _copies(model: RepositoryModel, manifest: Manifest, version: int, folder: Path) -> tuple[Path, ...]:
    """The version's files in the staging folder, as hard links where the file system has them."""
    folder.mkdir()
    copies = []
    for file in manifest.files:
        if not file.path.startswith(f"{version}/"):
            continue
        source = model.path / file.path
        target = folder / source.name
        try:
            os.link(source, target)
        except OSError:
            try:
                shutil.copy2(source, target)
            except OSError as error:
                raise explain_os_error(error, f"copy {source}") from error
        copies.append(target)
    if not copies:
        raise PublishFailed(f"version {version} of {model.name!r} has no files")
    return tuple(copies)
