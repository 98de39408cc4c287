"""The load's shape as Locust asks for it: how many users now, and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locust import LoadTestShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from plansmith_perf.locust.options import LoadOptions

__all__ = ["ProfileShape", "needs_shape"]

# Beyond it Locust warns.
_FASTEST_SPAWN_RATE = 100.0


class ProfileShape(LoadTestShape):
    """Users by a profile in closed loop; in open loop all of them from the beginning, and the schedule is shaped.

    Args:
        options: of the test.
        elapsed: seconds since the load began; None before.
        duration: seconds that it lasts.
    """

    use_common_options = True

    def __init__(
        self, options: LoadOptions, elapsed: Callable[[], float | None], duration: Callable[[], float]
    ) -> None:
        super().__init__()
        self._profile = None if options.is_open_loop else options.profile
        self._users = options.users
        # A constant closed loop starts its users as Locust would, the others have theirs as soon as may be.
        constant = options.load_shape == "constant" and not options.is_open_loop
        self._spawn_rate = options.spawn_rate if constant else _FASTEST_SPAWN_RATE
        self._elapsed = elapsed
        self._duration = duration

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be, and how many are started in a second; None at the end."""
        elapsed = self._elapsed()
        if elapsed is not None and elapsed >= self._duration():
            return None
        users = self._users
        if self._profile is not None:
            # A change while the first users are being started would make Locust start over.
            users = max(1, round(self._profile.level(elapsed or 0.0)))
        return users, self._spawn_rate


def needs_shape(options: LoadOptions, *, headless: bool) -> bool:
    """Whether Locust's own constant number of users for a run time is not enough.

    Its run time counts from before the users' preparation. On its web page that is the price of changing the number of
    users during the test, which Locust does not allow with a shape.
    """
    timed = headless and options.run_time is not None
    return timed or options.is_open_loop or options.load_shape != "constant"
