"""The place where a version is made before it is published: next to the repository, never in it.

Triton takes every folder in a repository for a model, hidden ones too. So a version is made in a folder `work` in
`<parent>/.<repository name>.plansmith/build-<unique>`, on the same file system, from where one rename puts it in place.
Each builder marks its own folder with a file and holds a lock on it while it lives. What it leaves behind when it is
killed has the mark and no lock, and the next builder removes it. The model folder that a version replaced stays in
`build-<unique>/replaced` until the next version is published: a server may still be listing it.

Temporary files of a command have a folder of the same kind in the system's folder for them, and what is written whole
or not at all one beside its destination.

Anyone who may write next to the repository, or who made the archive that it came in, can put something under these
names. So nothing but what a builder made and marked is ever removed, links are not followed, and another user's folder
is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidOption, PublishFailed
from plansmith_build.repository.locking import lock_folder, locked_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["keep_replaced", "remove_replaced", "staging_folder", "temporary_folder"]

_PREFIX = "build-"
_TEMPORARY_PREFIX = "plansmith-"
# As tempfile names folders.
_NAME = re.compile(rf"(?:{_PREFIX}|\.?{_TEMPORARY_PREFIX})[a-z0-9_]{{8}}")
_MARK = ".plansmith-build"
_WORK = "work"
_REPLACED = "replaced"


@contextmanager
def staging_folder(repository: Path, parent: Path | None = None) -> Iterator[Path]:
    """A private folder, removed with everything in it when the context ends, but for what `keep_replaced` was given.

    Args:
        repository: the repository's folder, resolved; it need not exist.
        parent: where to stage instead of next to the repository; made if necessary.

    Raises:
        InvalidOption: `parent` is inside the repository, or on another file system.
        PublishFailed: no folder can be made there, or its name is taken by something other than a folder of this user.
    """
    parent = repository.parent if parent is None else parent.resolve()
    if parent.is_relative_to(repository):
        raise InvalidOption(
            f"the staging folder {parent} is inside the repository, where Triton would take it for a model: "
            "name one outside of it, on the same file system"
        )
    base = parent / f".{repository.name}.plansmith"
    missing = [folder for folder in [base, parent, *parent.parents] if not os.path.lexists(folder)]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _own_folder(base)
    except OSError as error:
        if os.path.lexists(base) and (base.is_symlink() or not base.is_dir()):
            raise _foreign(base, "is a link or a file") from error
        _remove_if_empty(missing)
        raise PublishFailed(_no_place(repository, parent, error)) from error
    except PublishFailed:
        _remove_if_empty(missing)
        raise
    try:
        _check_file_system(folder, repository)
        yield folder / _WORK
    finally:
        _remove(lock, folder)
        os.close(lock)
        with contextlib.suppress(OSError), locked_folder(base):
            _remove_if_empty([base])
        _remove_if_empty(missing)


@contextmanager
def temporary_folder(beside: Path | None = None) -> Iterator[Path]:
    """An empty folder in the system's for temporary files, removed when the context ends.

    What this user's commands left there when they were killed is removed, too.

    Args:
        beside: a path that is to be written; then the folder, with a hidden name, is next to it.

    Raises:
        OSError: none can be made.
    """
    prefix, parent = (_TEMPORARY_PREFIX, None) if beside is None else (f".{_TEMPORARY_PREFIX}", beside.parent)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        lock = place = None
        # A file system that cannot lock folders keeps what is left there.
        with contextlib.suppress(OSError, PublishFailed):
            lock = lock_folder(folder, create=False, wait=True)
            (folder / _MARK).touch()
            place = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
            _sweep(place, replaced=False, owner=folder.stat().st_uid)
        try:
            (folder / _WORK).mkdir()
            yield folder / _WORK
        finally:
            for descriptor in (lock, place):
                if descriptor is not None:
                    os.close(descriptor)


def keep_replaced(folder: Path, staging: Path) -> None:
    """Keep the model folder that was replaced until `remove_replaced` is called with another staging folder.

    Raises:
        OSError: it cannot be moved aside.
    """
    os.rename(folder, staging.with_name(_REPLACED))  # noqa: PTH104 - a system call by this name


def remove_replaced(staging: Path) -> None:
    """Remove the model folders that earlier builders replaced, and what killed ones left."""
    base = staging.parent.parent
    with contextlib.suppress(OSError), locked_folder(base) as place:
        _sweep(place, replaced=True)


def _own_folder(base: Path) -> tuple[Path, int]:
    """Make, lock and mark a new folder, and remove what dead builders left.

    The lock on `base` keeps another builder from sweeping the new folder before its own lock is taken.
    """
    with locked_folder(base) as place:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        lock = lock_folder(folder, create=False, wait=True)
        assert lock is not None  # noqa: S101 - None is for those that do not wait
        try:
            _check_owner(base, place, lock)
            (folder / _MARK).touch()
            (folder / _WORK).mkdir()
            _sweep(place, replaced=False)
        except BaseException:
            _remove(lock, folder)
            os.close(lock)
            raise
    return folder, lock


def _sweep(base: int, *, replaced: bool, owner: int | None = None) -> None:
    """Remove the folders that builders marked and no longer lock; those with a replaced model only if asked to.

    Given an owner, only folders of theirs are removed, and empty ones without a mark, which others may just have made,
    are not.
    """
    for name in filter(_NAME.fullmatch, os.listdir(base)):
        # What cannot be opened is not ours.
        with contextlib.suppress(OSError):
            lock = lock_folder(Path(name), create=False, wait=False, inside=base)
            if lock is not None:
                if owner is None or (os.fstat(lock).st_uid == owner and _is_marked(lock)):
                    _remove(lock, Path(name), inside=base, replaced=replaced)
                os.close(lock)


def _remove(folder: int, path: Path, *, inside: int | None = None, replaced: bool = False) -> None:
    """Remove what a builder made in its folder; the mark goes last.

    Args:
        folder: a descriptor of it.
        path: where it is.
        inside: a descriptor of the folder that `path` is relative to.
        replaced: whether the model folder that it replaced goes, too.
    """
    with contextlib.suppress(OSError):
        if _is_marked(folder):
            for name in (_WORK, _REPLACED) if replaced else (_WORK,):
                # RecursionError: a model's folders may be deeper than Python's stack.
                with contextlib.suppress(RecursionError):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
            if os.listdir(folder) == [_MARK]:
                os.unlink(_MARK, dir_fd=folder)
        # Only where it is empty: it may be unmarked because its builder was killed before it had anything in it.
        os.rmdir(path, dir_fd=inside)


def _is_marked(folder: int) -> bool:
    return _MARK in os.listdir(folder)


def _check_owner(base: Path, place: int, own: int) -> None:
    # Not compared with the user's id: a file server may give what root makes to the user nobody.
    if os.fstat(place).st_uid != os.fstat(own).st_uid:
        raise _foreign(base, "belongs to another user")


def _no_place(repository: Path, parent: Path, error: OSError) -> str:
    where = f"beside it, in {parent}" if parent == repository.parent else f"in {parent}, which --staging names"
    said = f"what changes in the repository {repository} is prepared {where}; "
    if error.errno == errno.EROFS:
        said += "that file system is read-only: "
        # A volume of a container, for one, whose root is read-only.
        if os.access(repository, os.W_OK):
            return f"{said}mount the folder above the repository as writable too, not the repository alone"
        return f"{said}mount it as writable, or name a repository in a writable place with --repository"
    return (
        f"{said}no folder can be made there ({error.strerror}): see that it is a folder with room that you may write "
        "to, or name another with --staging, outside the repository and on the same file system"
    )


def _foreign(base: Path, why: str) -> PublishFailed:
    return PublishFailed(
        f"{base}, where versions are made before they are published, {why}: remove it, or name another folder to "
        "stage in with --staging, outside the repository and on the same file system"
    )


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
