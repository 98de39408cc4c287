"""One deadline for everything that a call does."""

from __future__ import annotations

import math
import time
from numbers import Real

from plansmith_client.errors import DeadlineExceeded, InvalidInput

__all__ = ["Deadline"]

# Three years; sockets cannot count much longer, so this means no deadline.
_LONGEST = 1e8


class Deadline:
    """The moment by which a call ends, counted from its creation.

    Args:
        timeout: seconds, more than 0; `math.inf` for no deadline.

    Raises:
        InvalidInput: `timeout` is not a number above 0.
    """

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float) -> None:
        if not (type(timeout) is float and timeout > 0) and not _is_positive(timeout):
            raise InvalidInput(
                f"timeout must be a number of seconds above 0 (math.inf for no deadline), got {timeout!r}"
            )
        self.timeout = float(timeout) if timeout < _LONGEST else math.inf
        self._end = time.monotonic() + self.timeout

    def remaining(self) -> float | None:
        """Seconds left; None without a deadline.

        Raises:
            DeadlineExceeded: none are left.
        """
        if self._end == math.inf:
            return None
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise DeadlineExceeded(f"The timeout of {self.timeout:g} s has passed.")
        return seconds


def _is_positive(value: float) -> bool:
    # A caller may pass anything, numpy's numbers among it; bool is an int to Python.
    real: object = value
    return isinstance(real, Real) and not isinstance(real, bool) and value > 0
