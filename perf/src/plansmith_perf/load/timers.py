"""An asyncio timer that is precise to microseconds: asyncio's own rounds up to milliseconds on Linux."""

from __future__ import annotations

import asyncio
import os
import time

from plansmith_perf.load.timerfd import open_timer, set_timer

__all__ = ["PreciseTimer"]


class PreciseTimer:
    """Linux's timerfd in the running event loop; one waiter at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._descriptor = open_timer()
        self._loop.add_reader(self._descriptor, self._expired)

    async def sleep_until(self, moment: int) -> None:
        """Return at `moment`, nanoseconds of `time.monotonic_ns`; at once if it has passed."""
        if moment <= time.monotonic_ns():
            return
        self._waiter = self._loop.create_future()
        set_timer(self._descriptor, moment)
        await self._waiter

    def close(self) -> None:
        """Free the timer."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _expired(self) -> None:
        os.read(self._descriptor, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
