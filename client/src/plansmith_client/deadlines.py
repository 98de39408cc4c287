"""One deadline for everything that a call does."""

from __future__ import annotations

import math
import time

from plansmith_client.errors import DeadlineExceeded, InvalidInput

__all__ = ["Deadline"]


class Deadline:
    """The moment by which a call ends, counted from its creation.

    Args:
        timeout: seconds, more than 0; `math.inf` for no deadline.

    Raises:
        InvalidInput: `timeout` is not a number above 0.
    """

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidInput(f"timeout={timeout!r} is not a number of seconds above 0 (math.inf for no deadline)")
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def remaining(self) -> float | None:
        """Seconds left, None where there is no deadline.

        Raises:
            DeadlineExceeded: none are left.
        """
        if self._end == math.inf:
            return None
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise DeadlineExceeded(f"The {self.timeout:g} s given to the call have passed.")
        return seconds
