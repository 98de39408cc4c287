"""Whether a server is worth asking: a circuit breaker for each."""

from __future__ import annotations

import time
from dataclasses import dataclass

from plansmith_client.errors import InvalidInput
from plansmith_client.inputs.validation import is_whole
from plansmith_client.transports.deadlines import seconds_from

__all__ = ["Breaker", "BreakerPolicy"]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When the circuit of a server that does not answer opens, so that no more requests are sent to it.

    Attributes:
        failures: outages in a row after which the circuit opens.
        cooldown: seconds until the server is asked again whether it is live; doubled after each failed probe.
        longest_cooldown: the limit of the doubling, in seconds.

    Raises:
        InvalidInput: a value is not above 0, or `cooldown` is above `longest_cooldown`.

    Example:
        ```python
        BreakerPolicy(failures=3, cooldown=0.5)
        ```
    """

    failures: int = 5
    cooldown: float = 1.0
    longest_cooldown: float = 10.0

    def __post_init__(self) -> None:
        cooldown, longest = seconds_from(self.cooldown), seconds_from(self.longest_cooldown)
        if not is_whole(self.failures) or self.failures < 1 or not 0 < cooldown <= longest:
            raise InvalidInput(
                f"{self} is not a valid breaker policy: failures must be a whole number from 1, and "
                "0 < cooldown <= longest_cooldown"
            )
        object.__setattr__(self, "cooldown", cooldown)
        object.__setattr__(self, "longest_cooldown", longest)


class Breaker:
    """Counts the outages of one server. Not safe to use from several threads: its owner holds a lock.

    Attributes:
        is_closed: whether requests are sent to the server.
        failures: outages since the last answer.
    """

    __slots__ = ("_closes_at", "_cooldown", "_policy", "failures", "is_closed")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.succeeded()

    def wait(self) -> float:
        """Seconds until the server should be asked again whether it is live; 0 if it is time."""
        return 0.0 if self.is_closed else max(0.0, self._closes_at - time.monotonic())

    def succeeded(self) -> None:
        """The server answered, if only with an error."""
        self.is_closed, self.failures, self._closes_at, self._cooldown = True, 0, 0.0, self._policy.cooldown

    def failed(self) -> None:
        """The server could not be reached."""
        self.failures += 1
        if not self.is_closed:
            self._cooldown = min(2 * self._cooldown, self._policy.longest_cooldown)
        if self.failures >= self._policy.failures:
            self.is_closed, self._closes_at = False, time.monotonic() + self._cooldown

    def probing(self) -> None:
        """One request probes the server now; other requests wait for the outcome."""
        self._closes_at = time.monotonic() + self._cooldown
