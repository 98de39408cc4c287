"""When shared memory is used."""

from __future__ import annotations

from dataclasses import dataclass

from plansmith_client.errors import InvalidInput

__all__ = ["SharedMemoryPolicy"]


@dataclass(frozen=True, slots=True)
class SharedMemoryPolicy:
    """When inputs and outputs go through system shared memory.

    Attributes:
        threshold: the least bytes of all inputs, or of all outputs of known size, that use shared memory.
        limit: the most bytes that the regions of one client may occupy for each server.

    Raises:
        InvalidInput: `threshold` is below 1, or above `limit`.

    Example:
        ```python
        Client("localhost:8001", shared_memory=SharedMemoryPolicy(threshold=4 * 2**20)).close()
        ```
    """

    threshold: int = 2**18
    limit: int = 2**30

    def __post_init__(self) -> None:
        are_whole = type(self.threshold) is type(self.limit) is int
        if not are_whole or self.threshold < 1 or self.limit < self.threshold:
            raise InvalidInput(
                f"{self} is not a valid policy: both must be whole numbers of bytes, and 0 < threshold <= limit"
            )
