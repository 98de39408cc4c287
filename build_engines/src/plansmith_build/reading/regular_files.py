"""Files that anybody may have put there: small ones read whole, or refused, without waiting and without end; hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LARGEST_BYTES", "read_regular", "sha256_of"]

# No manifest, configuration, history or label file comes near to it.
LARGEST_BYTES = 64 * 2**20


def read_regular(path: Path, *, follow: bool = True) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        follow: whether it may be a symbolic link. What is copied or shown must not be one.

    Raises:
        OSError: it cannot be read, is a FIFO or a device, is larger than `LARGEST_BYTES`, or has a name that no file
            system takes.
    """
    # Opening a FIFO would wait for its writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "a symbolic link, which may lead anywhere", str(path)) from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > LARGEST_BYTES:
            raise OSError(errno.EFBIG, f"larger than {LARGEST_BYTES >> 20} MiB", str(path))
        return file.read()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
