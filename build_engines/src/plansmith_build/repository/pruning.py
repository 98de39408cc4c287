"""Removing old versions, without a moment in which a server could see half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel, InvalidOption
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.companions import remove_unused_companions
from plansmith_build.repository.config import config_from_text, versions_served
from plansmith_build.repository.filesystem import explain_os_error
from plansmith_build.repository.locking import locked_folder
from plansmith_build.repository.signed_versions import SIGNED
from plansmith_build.repository.staging import remove_replaced, staging_folder
from plansmith_build.repository.warmup import WARMUP, warmup_files

if TYPE_CHECKING:
    from plansmith_build.repository.model_repository import ModelRepository, RepositoryModel
    from plansmith_build.repository.signed_versions import Signer

__all__ = ["prunable_versions", "prune", "served_versions"]


def prunable_versions(model: RepositoryModel, *, keep: int) -> tuple[int, ...]:
    """The versions that are neither among the newest nor served by any configuration, the oldest first.

    Raises:
        InvalidOption: none would stay, or the model's folder or its `warmup` is a link, which may lead to another's.
        InvalidModel: a configuration cannot be read, so it is not known what is served; or history.json cannot.
    """
    if model.path.is_symlink():
        raise InvalidOption(f"{model.path} is a link, and nothing is removed from where it leads: prune it there")
    if (model.path / WARMUP).is_symlink():
        raise InvalidOption(
            f"{model.path / WARMUP} is a link, and nothing is removed from where it leads: replace it with a folder"
        )
    if keep < 1:
        raise InvalidOption(f"--keep {keep} would leave no version: keep 1 or more")
    # It keeps the number of what is removed from being given again.
    model.history  # noqa: B018
    served = served_versions(model)
    return tuple(version for version in model.versions[:-keep] if version not in served)


def prune(
    repository: ModelRepository, name: str, *, keep: int, staging: Path | None = None, sign: Signer | None = None
) -> tuple[int, ...]:
    """Remove old versions; their numbers are never given again.

    Args:
        repository: an existing one.
        name: the model's.
        keep: how many of the newest stay.
        staging: where versions are moved to before they are removed; see `staging_folder`.
        sign: takes them from the repository's list of signed versions; needed where there is one.

    Returns:
        The versions that were removed.

    Raises:
        ModelNotFound: there is no such model.
        InvalidOption: none would stay, the model's folder or its `warmup` is a link, or `sign` is missing.
        InvalidModel: a configuration or history.json cannot be read.
        SignatureInvalid: the list is missing or not by this key.
        PublishFailed: the system did not let one be moved, or a warm-up sample be removed.
    """
    # Before anything is made: a lock would make the repository's folder.
    repository.existing_model(name)
    if sign is None and os.path.lexists(repository.path / SIGNED):
        raise InvalidOption(
            f"{repository.path / SIGNED} lists the signed versions, and what goes leaves it: give --sign-key"
        )
    listing = sign.listing(repository.path) if sign is not None else contextlib.nullcontext()
    with staging_folder(repository.path, staging) as stage, locked_folder(repository.path), listing:
        model = repository.existing_model(name)
        versions = prunable_versions(model, keep=keep)
        samples = _warmup_of(model, versions)
        for version in versions:
            try:
                _remove(model.version_path(version), stage / str(version))
            except OSError as error:
                gone = ", ".join(str(older) for older in versions if older < version) or "none"
                state = f"removed before that: {gone}; the others are there"
                raise explain_os_error(error, f"remove version {version} of {name!r}", state) from error
        texts = (read_regular(path).decode() for path in model.configurations.values())
        for path in samples - _warmup_of(model, model.versions) - warmup_files(model.path, texts):
            if path.is_symlink() or not path.is_file():
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                state = "the versions are removed"
                raise explain_os_error(error, f"remove {path}, which no version needs any more", state) from error
        if versions:
            remove_unused_companions(model, model.versions[-1], stage)
        # It may hold the last links to the files of old versions.
        remove_replaced(stage)
    return versions


def _warmup_of(model: RepositoryModel, versions: tuple[int, ...]) -> set[Path]:
    """The warm-up samples that were published with any of these versions."""
    paths = set()
    for version in versions:
        try:
            files = model.manifest(version).files
        except (InvalidModel, OSError):
            # Not ours, or reported by `plansmith verify`.
            continue
        paths |= {model.path / WARMUP / Path(file.path).name for file in files if file.path.startswith(f"{WARMUP}/")}
    return paths


def _remove(folder: Path, aside: Path) -> None:
    try:
        # One step: a server sees all of a version or nothing of it.
        os.rename(folder, aside)  # noqa: PTH104 - a system call by this name
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # overlayfs moves no folder of an image's layer. No configuration serves it, so half of it is never loaded.
        shutil.rmtree(folder)
    else:
        shutil.rmtree(aside, ignore_errors=True)


def served_versions(model: RepositoryModel) -> set[int]:
    """The versions that any of a model's configurations serves.

    Raises:
        InvalidModel: a configuration or history.json cannot be read.
    """
    served: set[int] = set()
    for name, path in model.configurations.items():
        try:
            config = config_from_text(read_regular(path).decode())
        except (InvalidModel, OSError, UnicodeDecodeError) as error:
            raise InvalidModel(
                f"{model.name}/{name} cannot be read, so it is not known which versions it serves: correct it first"
            ) from error
        served.update(versions_served(config, model.versions))
    return served
