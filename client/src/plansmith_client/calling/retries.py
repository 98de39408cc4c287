"""When a request is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from plansmith_client.errors import InvalidInput
from plansmith_client.inputs.validation import is_whole
from plansmith_client.transports.deadlines import seconds_from

__all__ = ["RetryBudget", "RetryPolicy"]

# More than any policy needs; a float overflows after a thousand.
_MOST_DOUBLINGS = 64
# A day: no clock counts as many seconds as a float.
_LONGEST_PAUSE = 86_400.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after how long, a request is sent again to a server that could not be reached.

    Only outages are retried, only within the call's deadline, and only for requests that are safe to repeat: never a
    step of a sequence, a stream that has begun, or a change of the server's state. Overload is never retried. Trying
    the next of several servers does not count as a retry.

    Attributes:
        attempts: retries after the first attempt; 0 for none.
        backoff: seconds before the first retry, doubled with each, less a random part of up to half.
        longest_backoff: the limit of the doubling, in seconds.
        restart: seconds for which retries go on beyond `attempts`, `longest_backoff` apart, if a server has answered
            before: it may be restarting. 0 for no more than `attempts`; unused if that is 0.

    Raises:
        InvalidInput: `attempts` or `restart` is below 0, `backoff` is not above 0, or it is above `longest_backoff`.

    Example:
        ```python
        RetryPolicy(attempts=0)  # never
        ```
    """

    attempts: int = 3
    backoff: float = 0.1
    longest_backoff: float = 2.0
    restart: float = 15.0

    def __post_init__(self) -> None:
        seconds = {name: seconds_from(getattr(self, name)) for name in ("backoff", "longest_backoff", "restart")}
        are_ordered = 0 < seconds["backoff"] <= seconds["longest_backoff"] and seconds["restart"] >= 0
        if not is_whole(self.attempts) or self.attempts < 0 or not are_ordered:
            raise InvalidInput(
                f"{self} is not a valid retry policy: attempts must be a whole number from 0, "
                "0 < backoff <= longest_backoff, and restart must be a number of seconds from 0"
            )
        for name, value in seconds.items():
            object.__setattr__(self, name, value)

    def pause(self, attempt: int) -> float:
        """Seconds before the retry with this number, counted from 0; random."""
        full = min(self.backoff * 2.0 ** min(attempt, _MOST_DOUBLINGS), self.longest_backoff, _LONGEST_PAUSE)
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret


class RetryBudget:
    """Keeps retries a small part of all requests, so that they do not make an outage worse.

    A retry takes one token of at most ten, an answer gives back a tenth of one (the rule of gRPC's retry throttling).
    Threads may count at the same time: being off by a token does no harm, and a lock could be held during a fork.
    """

    __slots__ = ("_tokens",)

    _FULL, _GIVEN_BACK = 10.0, 0.1

    def __init__(self) -> None:
        self._tokens = self._FULL

    def take(self) -> bool:
        """Whether a retry may be made; if so, it is counted."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """A request was answered."""
        if self._tokens < self._FULL:
            self._tokens = min(self._FULL, self._tokens + self._GIVEN_BACK)
