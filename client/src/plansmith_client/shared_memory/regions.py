"""Regions of POSIX shared memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from plansmith_client.shared_memory.owners import is_abandoned, make_region_name

__all__ = ["Region", "padded", "sweep_files"]

# Where Linux keeps what shm_open(3) makes.
_FOLDER = Path("/dev/shm")  # noqa: S108 - the name that the server opens is one in this folder
# Tensors begin at whole cache lines.
_ALIGNMENT = 64


class Region:
    """Memory that a server can map by its name.

    Args:
        size: bytes.

    Raises:
        OSError: not enough memory, or the system has no POSIX shared memory.
    """

    __slots__ = ("_map", "is_registered", "name", "size")

    def __init__(self, size: int) -> None:
        try:
            import mmap  # noqa: PLC0415 - not for a first answer

            reserve = os.posix_fallocate
        except (ImportError, AttributeError) as error:
            raise FileNotFoundError(f"the system cannot reserve it: {error}") from error
        self.name = make_region_name()
        self.size = size
        self.is_registered = False
        path = _FOLDER / self.name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Reserved now: memory that is missing later would end the process with SIGBUS.
            reserve(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def key(self) -> str:
        """The key that the server opens."""
        return f"/{self.name}"

    def write(self, array: np.ndarray[Any, Any], offset: int) -> None:
        """Copy an array's elements to an offset, row-major."""
        target = np.frombuffer(self._map, array.dtype, array.size, offset).reshape(array.shape)
        np.copyto(target, array)

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes at an offset, as they are when they are read."""
        return memoryview(self._map)[offset : offset + size]

    def unlink(self) -> None:
        """Remove the name. A server that has mapped the memory keeps it; nothing stays behind when the process dies."""
        with contextlib.suppress(OSError):
            (_FOLDER / self.name).unlink()

    def close(self) -> None:
        """Free the memory, with the last reference to it: another thread may still be writing."""
        self.unlink()


def padded(size: int) -> int:
    """`size` rounded up to the alignment of tensors."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def sweep_files() -> None:
    """Remove the regions of processes that have ended: of clients killed between creating and registering one."""
    with contextlib.suppress(OSError):
        for path in _FOLDER.glob("plansmith-*"):
            if is_abandoned(path.name):
                # One of another user stays.
                with contextlib.suppress(OSError):
                    path.unlink()
