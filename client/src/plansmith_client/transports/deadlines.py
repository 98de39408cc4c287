"""One deadline for everything that a call does."""

from __future__ import annotations

import contextlib
import math
import time
from concurrent.futures import CancelledError
from numbers import Real
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import DeadlineExceeded, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LONGEST_WAIT", "Deadline", "seconds_from"]

LONGEST_WAIT = 2e6
"""More than three weeks: poll() counts milliseconds in 32 bits, so more than this means for ever."""


class Deadline:
    """The moment by which a call ends, counted from its creation.

    Args:
        timeout: seconds, more than 0; `math.inf`, as all above `LONGEST_WAIT`, for no deadline.

    Raises:
        InvalidInput: `timeout` is not a number above 0.

    Attributes:
        timeout: the seconds; `math.inf` for no deadline.
        begun: when the call began, on the monotonic clock.
        is_cancellable: whether `cancel` may be called.
        is_cancelled: whether it was.
    """

    __slots__ = ("_abort", "_end", "begun", "is_cancellable", "is_cancelled", "timeout")

    def __init__(self, timeout: float) -> None:
        seconds = seconds_from(timeout)
        if not seconds > 0:
            raise InvalidInput(
                f"timeout must be a number of seconds above 0 (math.inf for no deadline), got {timeout!r}"
            )
        self.timeout = seconds if seconds <= LONGEST_WAIT else math.inf
        self.begun = time.monotonic()
        self._end = self.begun + self.timeout
        self.is_cancellable = self.is_cancelled = False
        self._abort: Callable[[], object] | None = None

    def part(self) -> Deadline:
        """A deadline of as many seconds, counted from now, for a part of a call that has begun before."""
        other = Deadline(self.timeout)
        other.begun = self.begun
        return other

    def cancellable(self) -> Deadline:
        """The same deadline for one of several attempts, which `cancel` may end from another thread."""
        other = Deadline(self.timeout)
        other._end, other.begun, other.is_cancellable = self._end, self.begun, True
        return other

    def cancel(self) -> None:
        """End the call that has this deadline, if it is still running."""
        self.is_cancelled = True
        abort = self._abort
        if abort is not None:
            abort()

    @contextlib.contextmanager
    def aborting(self, abort: Callable[[], object]) -> Iterator[None]:
        """A context in which `cancel` calls `abort`, of what then fails in one way or another.

        Raises:
            CancelledError: for any error after `cancel`.
        """
        self._abort = abort
        try:
            self.remaining()
            yield
        except Exception as error:
            if self.is_cancelled:
                raise CancelledError from error
            raise
        finally:
            self._abort = None

    def remaining(self) -> float | None:
        """Seconds left; None without a deadline.

        Raises:
            DeadlineExceeded: none are left.
            CancelledError: the call was cancelled.
        """
        if self.is_cancelled:
            raise CancelledError
        if self._end == math.inf:
            return None
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise DeadlineExceeded(f"The timeout of {self.timeout:g} s has passed.")
        return seconds


def seconds_from(value: object) -> float:
    """A number of seconds, of Python or numpy, as a float; NaN for anything else."""
    # bool is an int to Python.
    if type(value) is not float and (not isinstance(value, Real) or isinstance(value, bool)):
        return math.nan
    number: Any = value
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
