"""Locks on folders themselves, so that no lock file is left anywhere."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from plansmith_build.errors import PublishFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["lock_folder", "locked_folder"]

_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def locked_folder(path: Path) -> Iterator[int]:
    """Hold the lock of a folder, which is made if it does not exist; wait for it as long as it takes.

    Yields:
        A descriptor of the folder.

    Raises:
        PublishFailed: the file system cannot lock folders.
        OSError: the folder cannot be made or opened, or is a link.
    """
    descriptor = lock_folder(path, create=True, wait=True)
    assert descriptor is not None  # noqa: S101 - None is for those that do not wait
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock_folder(path: Path, *, create: bool, wait: bool, inside: int | None = None) -> int | None:
    """Take the lock of a folder.

    The lock belongs to the folder that stands at the path when it is granted: another process may have removed, and a
    third made again, the one that was there when we began to wait.

    Args:
        path: the folder itself; a link to one is refused.
        create: make it where it is not.
        wait: wait until others let go of it.
        inside: a descriptor of the folder that `path` is relative to.

    Returns:
        A descriptor that holds the lock until it is closed, or None where `wait` is off and another holds it.

    Raises:
        PublishFailed: the file system cannot lock folders.
        OSError: the folder cannot be made or opened, or is a link.
    """
    while True:
        if create:
            with suppress(FileExistsError):
                os.mkdir(path, dir_fd=inside)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
        except FileNotFoundError:
            if create:
                continue
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(descriptor, path, inside):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                raise PublishFailed(
                    f"the file system of {path} cannot lock folders ({error.strerror}): "
                    "build into a repository on a local disk and copy the model folder"
                ) from error
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path, inside: int | None) -> bool:
    try:
        there = os.stat(path, dir_fd=inside, follow_symlinks=False)
        return os.path.samestat(os.fstat(descriptor), there)
    except FileNotFoundError:
        return False
