"""Folders that are removed though the process that made them was killed: by the next one that looks for them.

Their maker locks them, and what it starts inherits the lock: the kernel releases it when the last of them has ended, in
whatever way. So a marked folder that can be locked belongs to nobody any more, also after the machine was restarted,
and whatever process ids mean in other containers.

Other users may write to the same place: only what this user owns is removed, and links are not followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["own", "sweep"]

_MARK = ".plansmith-serve"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def own(folder: Path) -> int:
    """Lock and mark a folder, for as long as the descriptor is open here or in a process that has inherited it.

    Raises:
        OSError: it cannot be opened.
    """
    lock = os.open(folder, _FOLDER)
    # Where the file system cannot lock folders, there is no mark, and what killed processes leave is kept.
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / _MARK).touch()
    return lock


def sweep(parent: Path, prefix: str, first: Callable[[str], None] = lambda _: None) -> None:
    """Remove the folders that nobody owns any more, where the parent can be read.

    Args:
        parent: where they are.
        prefix: what `tempfile.mkdtemp` was given to name them.
        first: is called with the name of each, before it is removed.
    """
    named = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}")
    with contextlib.suppress(OSError):
        for path in parent.iterdir():
            # What cannot be opened or locked is another user's, or in use.
            if named.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(path, first)


def _remove_if_abandoned(path: Path, first: Callable[[str], None]) -> None:
    folder = os.open(path, _FOLDER)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(folder).st_uid == os.geteuid() and (path / _MARK).exists():
            first(path.name)
            _empty(folder)
            path.rmdir()
    finally:
        os.close(folder)


def _empty(folder: int) -> None:
    # The mark goes last: what is left of it, were this to be killed, too, is still known.
    for name in sorted(os.listdir(folder), key=_MARK.__eq__):
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
