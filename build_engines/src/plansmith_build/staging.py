"""The place where a version is made before it is published: beside the repository, never in it.

Triton takes every folder in a repository for a model, hidden ones too. So a version is made in
`<parent>/.<repository name>.plansmith/<unique>/`, on the same file system, from where one rename puts it in place. Each
builder holds a lock on its own folder while it lives; what it leaves behind when it is killed has no lock, and the next
builder removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidOption, PublishFailed
from plansmith_build.locking import lock_folder, locked_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["staging_folder"]


@contextmanager
def staging_folder(repository: Path, parent: Path | None = None) -> Iterator[Path]:
    """A folder of one's own, gone with everything in it when the context ends.

    Args:
        repository: the repository's folder, resolved; it need not exist.
        parent: where to stage instead of beside the repository; made if need be.

    Raises:
        InvalidOption: `parent` is inside the repository, or on another file system.
        PublishFailed: no folder can be made there.
    """
    parent = repository.parent if parent is None else parent.resolve()
    if parent.is_relative_to(repository):
        raise InvalidOption(
            f"the staging folder {parent} is inside the repository, where Triton would take it for a model: "
            "name one outside of it, on the same file system"
        )
    base = parent / f".{repository.name}.plansmith"
    missing = [folder for folder in [parent, *parent.parents] if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _own_folder(base)
    except OSError as error:
        _remove_if_empty([base, *missing])
        raise PublishFailed(
            f"no staging folder can be made in {parent}: {error.strerror}; "
            "name another with --staging, outside the repository and on the same file system"
        ) from error
    try:
        _check_file_system(folder, repository)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError), locked_folder(base):
            _remove_if_empty([base])
        _remove_if_empty(missing)


def _own_folder(base: Path) -> tuple[Path, int]:
    """Make and lock a new folder, after removing what dead builders left.

    The lock on `base` keeps another builder from sweeping the new folder before its own lock is taken.
    """
    with locked_folder(base):
        _sweep(base)
        folder = Path(tempfile.mkdtemp(dir=base))
        lock = lock_folder(folder, create=False, wait=True)
    if lock is None:
        raise PublishFailed(f"{folder} was taken by another process: try again")
    return folder, lock


def _sweep(base: Path) -> None:
    for entry in list(base.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            continue
        # Another user's leftovers may not be ours to open or remove.
        with contextlib.suppress(OSError):
            lock = lock_folder(entry, create=False, wait=False)
            if lock is not None:
                shutil.rmtree(entry, ignore_errors=True)
                os.close(lock)


def _check_file_system(folder: Path, repository: Path) -> None:
    place = next(path for path in [repository, *repository.parents] if path.exists())
    if folder.stat().st_dev != place.stat().st_dev:
        raise InvalidOption(
            f"the staging folder {folder.parent.parent} is on another file system than the repository {repository}, "
            "so a version cannot be moved there in one step: name one on the same file system with --staging"
        )


def _remove_if_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
