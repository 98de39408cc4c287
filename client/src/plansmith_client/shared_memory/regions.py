"""Regions of POSIX shared memory, made once and lent to one request after another."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.shared_memory.owners import is_abandoned, make_region_name

if TYPE_CHECKING:
    from plansmith_client.shared_memory.policy import SharedMemoryPolicy

__all__ = ["Region", "RegionPool", "sweep_files"]

# Where Linux keeps what shm_open(3) makes.
_FOLDER = Path("/dev/shm")  # noqa: S108 - the name that the server opens is one in this folder
_SMALLEST = 2**20
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
        self.name = make_region_name()
        self.size = size
        self.is_registered = False
        path = _FOLDER / self.name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Reserved now: memory that is missing later would end the process with SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
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

    def unlink(self) -> None:
        """Remove the name. A server that has mapped the memory keeps it; nothing stays behind when the process dies."""
        with contextlib.suppress(OSError):
            (_FOLDER / self.name).unlink()

    def close(self) -> None:
        """Free the memory."""
        self.unlink()
        # A view may still be alive in another thread: then the collector gives it back.
        with contextlib.suppress(BufferError):
            self._map.close()


class RegionPool:
    """The regions for one server. Safe to use from many threads."""

    def __init__(self, policy: SharedMemoryPolicy) -> None:
        self._limit = policy.limit
        self._free: list[Region] = []
        self._made: list[Region] = []
        self._lock = threading.Lock()

    def lend(self, size: int) -> Region | None:
        """A region of at least `size` bytes that is not in use; None if the limit does not allow another one.

        Raises:
            OSError: the system has no memory left for it.
        """
        with self._lock:
            fitting = [region for region in self._free if region.size >= size]
            if fitting:
                region = min(fitting, key=lambda candidate: candidate.size)
                self._free.remove(region)
                return region
            rounded = max(_SMALLEST, 1 << (size - 1).bit_length())
            if sum(made.size for made in self._made) + rounded > self._limit:
                return None
            region = Region(rounded)
            self._made.append(region)
            return region

    def take_back(self, region: Region) -> None:
        """The request has been answered: the region may be lent again."""
        with self._lock:
            self._free.append(region)

    def drop(self, region: Region) -> None:
        """Discard a region that is not registered with the server, or no longer."""
        with self._lock:
            self._made.remove(region)
        region.close()

    def drain(self) -> list[Region]:
        """All regions, which the pool no longer has; those in use among them."""
        with self._lock:
            made, self._made, self._free = self._made, [], []
        return made


def padded(size: int) -> int:
    """`size` rounded up to the alignment of tensors."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def sweep_files() -> None:
    """Remove the regions of processes that have ended: of clients killed between creating and registering one."""
    with contextlib.suppress(OSError):
        for path in _FOLDER.glob("plansmith-*"):
            if is_abandoned(path.name):
                path.unlink(missing_ok=True)
