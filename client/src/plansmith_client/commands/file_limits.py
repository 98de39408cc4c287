"""Which files are read as inputs: regular ones, no larger than a request can be."""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from plansmith_client.errors import InvalidInput

__all__ = ["InputFile", "Upload", "check_file", "check_size"]

# A request over gRPC cannot be larger.
_LARGEST_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Upload:
    """What came of a file without its path, used as one: it never lies on the disk."""

    suffix: str
    content: bytes

    def __str__(self) -> str:
        return f"input{self.suffix}"

    def read_bytes(self) -> bytes:
        """As Path's."""
        return self.content

    def open(self, _: str) -> BinaryIO:
        """As Path's."""
        return io.BytesIO(self.content)


InputFile = Path | Upload


def check_file(path: Path) -> None:
    """Refuse what cannot be read to its end: opening a FIFO waits for its writer, and a device has no end.

    Raises:
        InvalidInput: it is not a regular file, or larger than 2 GiB.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"{path} is not a regular file: copy what it gives to one")
    check_size(path, status.st_size)


def check_size(path: InputFile, size: int) -> None:
    """Refuse what is larger than a request can be.

    Raises:
        InvalidInput: it is larger than 2 GiB.
    """
    if size > _LARGEST_BYTES:
        raise InvalidInput(
            f"{path} holds {size / 2**30:.1f} GiB, and {_LARGEST_BYTES >> 30} GiB are allowed: send it in parts"
        )
