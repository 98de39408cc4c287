"""When shared memory is used."""

from __future__ import annotations

from dataclasses import dataclass

from plansmith_client.errors import InvalidInput

__all__ = ["SharedMemoryPolicy"]


@dataclass(frozen=True, slots=True)
class SharedMemoryPolicy:
    """When inputs go through system shared memory.

    Attributes:
        threshold: bytes of all inputs of a request from which on it is worth it.
        limit: bytes that the regions of one client may take for each server.

    Raises:
        InvalidInput: a value is not above 0.

    Example:
        ```python
        Client("localhost:8001", shared_memory=SharedMemoryPolicy(threshold=4 * 2**20)).close()
        ```
    """

    threshold: int = 2**20
    limit: int = 2**30

    def __post_init__(self) -> None:
        if self.threshold < 1 or self.limit < self.threshold:
            raise InvalidInput(f"{self} is no policy: 0 < threshold <= limit")
