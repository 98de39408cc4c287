"""Models that belong to a version of another one: the steps of an ensemble, `scenes.3.image` of `scenes` version 3."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.filesystem import rename_new, sync_file, sync_tree
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.repository.model_repository import COMPANION, CONFIG, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = ["companions_in_place", "is_companion", "models_of_ensemble", "remove_unused_companions"]


@contextmanager
def companions_in_place(folders: Sequence[Path], live: RepositoryModel) -> Iterator[None]:
    """Move models beside another one, and away again where the context ends with an error.

    Args:
        folders: complete folders on the same file system, under names that are free or were left by a builder that was
            killed before its version was published.
        live: the model that they belong to.

    Raises:
        OSError: one cannot be moved.
    """
    moved: list[Path] = []
    try:
        for folder in folders:
            target = live.path.parent / folder.name
            (folder / COMPANION).write_text(json.dumps({"model": live.name}) + "\n", encoding="utf-8")
            sync_tree(folder)
            if is_companion(target, live):
                # Its version was never published, or its number would not be given again.
                shutil.rmtree(target)
            rename_new(folder, target)
            moved.append(target)
        if moved:
            sync_file(live.path.parent)
        yield
    except BaseException:
        for target in moved:
            shutil.rmtree(target, ignore_errors=True)
        raise


def remove_unused_companions(live: RepositoryModel, version: int, staging: Path) -> None:
    """Remove the companions that neither a version nor the one published before it uses."""
    used: set[str] = set()
    for kept in [number for number in live.versions if number <= version][-2:]:
        try:
            used |= models_of_ensemble(read_manifest(live.path / str(kept) / MANIFEST).configs.get(CONFIG, ""))
        except InvalidModel:
            # It is not known what it uses.
            return
    for folder in sorted(live.path.parent.iterdir()):
        if folder.name not in used and is_companion(folder, live):
            with contextlib.suppress(OSError):
                os.rename(folder, staging / folder.name)  # noqa: PTH104 - a system call by this name


def models_of_ensemble(text: str) -> set[str]:
    """The models that a configuration's steps name; none where it is not an ensemble's.

    Raises:
        InvalidModel: it is not a configuration.
    """
    return {step.model_name for step in config_from_text(text).ensemble_scheduling.step}


def is_companion(folder: Path, live: RepositoryModel) -> bool:
    """Whether a folder beside a model's is a step of one of its versions."""
    # The name of one that a builder made begins with its model's; of any other, a forged file would be enough.
    if not folder.name.startswith(f"{live.name[:100]}.") or folder.is_symlink():
        return False
    try:
        return bool(json.loads(read_regular(folder / COMPANION, follow=False))["model"] == live.name)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
