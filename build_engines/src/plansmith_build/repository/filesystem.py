"""The few things that publishing asks of a file system, each of them whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path

from plansmith_build.errors import PublishFailed

__all__ = [
    "ExchangeUnsupported",
    "explain_os_error",
    "link_or_copy",
    "make_folder",
    "mirror",
    "rename_exchange",
    "rename_new",
    "sync_file",
    "sync_tree",
    "write_new",
]

# Linux, include/uapi/linux/fs.h
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY}
_NO_HARD_LINK = {errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ExchangeUnsupported(Exception):
    """The system or the file system cannot exchange two folders in one step."""


def rename_exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step: at no instant is either path without one.

    Raises:
        ExchangeUnsupported: the system or the file system cannot do that.
        OSError: anything else.
    """
    try:
        _renameat2(one, other, _RENAME_EXCHANGE)
    except OSError as error:
        # overlayfs says that of a folder from an image's layer, on what is one file system to everybody else.
        if error.errno == errno.EXDEV and one.stat().st_dev == other.stat().st_dev:
            raise ExchangeUnsupported from error
        raise


def rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a path where nothing is.

    Raises:
        FileExistsError: something is there.
        OSError: anything else.
    """
    try:
        _renameat2(source, target, _RENAME_NOREPLACE)
    except ExchangeUnsupported:
        # Without the flag a rename still fails on a folder that holds something.
        os.rename(source, target)  # noqa: PTH104 - Path.rename says replace where this must not


def write_new(path: Path, content: bytes) -> None:
    """Write a file. Where it exists as a hard link, the content that other links see stays as it is."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def make_folder(path: Path, like: Path | None = None) -> None:
    """Make a folder, with the mode and owner of another where that is allowed."""
    path.mkdir()
    if like is not None:
        status = like.stat()
        with suppress(PermissionError):
            os.chown(path, status.st_uid, status.st_gid)
        path.chmod(status.st_mode & 0o7777)


def mirror(source: Path, target: Path) -> None:
    """Make a folder with the content of another: new folders, and files as hard links, or as copies where necessary.

    Raises:
        OSError: something cannot be read or written.
    """
    make_folder(target, like=source)
    for entry in source.iterdir():
        copy = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            mirror(entry, copy)
            shutil.copystat(entry, copy)
            continue
        link_or_copy(entry, copy)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second place: as a hard link, or as a copy where there can be none.

    Raises:
        OSError: it cannot be read or written.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def sync_file(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring a folder, its files and its folders to the disk."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(root, name)
            # What is hard-linked was brought there when it was published; syncing it again costs nothing. Opening a
            # FIFO would wait for ever.
            if stat.S_ISREG(path.lstat().st_mode):
                sync_file(path)
        sync_file(Path(root))


def explain_os_error(error: OSError, doing: str, state: str = "the repository is as it was") -> PublishFailed:
    """The error to raise when the system did not let a version be written.

    Args:
        error: what the system said.
        doing: what was being done: `"write the new version in /srv/.models.plansmith"`.
        state: what is there now.
    """
    if error.errno in _NO_SPACE:
        why = f"{error.strerror}: free some space"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        why = f"permission denied on {error.filename or 'it'}: make it writable, or build as a user who may write there"
    elif error.errno == errno.EROFS:
        why = "the file system is read-only: name another repository with --repository"
    elif error.errno == errno.EXDEV:
        why = "staging folder and repository are on different file systems: name a staging folder with --staging"
    else:
        why = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    return PublishFailed(f"cannot {doing}: {why}; {state}")


def _renameat2(source: Path, target: Path, flags: int) -> None:
    if sys.platform != "linux":
        raise ExchangeUnsupported
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        function = libc.renameat2
    except AttributeError as error:  # glibc before 2.28
        raise ExchangeUnsupported from error
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) == 0:
        return
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        raise ExchangeUnsupported
    raise OSError(code, os.strerror(code), str(target))
