"""When a request is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from plansmith_client.errors import InvalidInput
from plansmith_client.inputs.validation import is_whole

__all__ = ["RetryBudget", "RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after how long, a request is sent again to a server that could not be reached.

    Only outages are followed by another attempt, only within the call's deadline, and only for requests that may be
    repeated: never a step of a sequence, a stream that has begun, or a change of the server's state. Overload is never
    answered with another attempt. Trying the next of several servers is not counted.

    Attributes:
        attempts: further attempts after the first; 0 for none.
        backoff: seconds before the first of them, doubled with each, less a random part of up to half.
        longest_backoff: seconds that the doubling ends at.

    Raises:
        InvalidInput: a value is below 0.

    Example:
        ```python
        RetryPolicy(attempts=0)  # never
        ```
    """

    attempts: int = 3
    backoff: float = 0.1
    longest_backoff: float = 2.0

    def __post_init__(self) -> None:
        if not is_whole(self.attempts) or self.attempts < 0 or not 0 < self.backoff <= self.longest_backoff:
            raise InvalidInput(f"{self} is no policy: attempts from 0, 0 < backoff <= longest_backoff")

    def pause(self, attempt: int) -> float:
        """Seconds before the further attempt of this number, counted from 0; random."""
        full: float = min(self.backoff * 2.0**attempt, self.longest_backoff)
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret


class RetryBudget:
    """Keeps retries a small part of all requests, so that an outage is not made worse by those who wait for its end.

    A retry takes one token of at most ten, an answer gives back a tenth of one (the rule of gRPC's retry throttling).
    Threads may count at the same time: a token more or less is no matter, and a lock would be one more thing to hold
    when a process forks.
    """

    __slots__ = ("_tokens",)

    _FULL, _GIVEN_BACK = 10.0, 0.1

    def __init__(self) -> None:
        self._tokens = self._FULL

    def take(self) -> bool:
        """Whether another attempt may be made; it counts as made."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """An answer came."""
        if self._tokens < self._FULL:
            self._tokens = min(self._FULL, self._tokens + self._GIVEN_BACK)
