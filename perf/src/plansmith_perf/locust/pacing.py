"""Hands each arrival of an open loop to a user when it is due. For processes that gevent has patched."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import gevent
from gevent.queue import Empty, SimpleQueue
from gevent.socket import wait_read

from plansmith_perf.load.timers import open_timer, set_timer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Arrivals"]


class Arrivals:
    """The arrivals of one process: a queue that is filled on schedule, whether or not anybody takes from it.

    Args:
        due: nanoseconds of `time.monotonic_ns`, ascending.
    """

    def __init__(self, due: Iterator[int]) -> None:
        self._queue: SimpleQueue[int] = SimpleQueue()
        # gevent's own timers are rounded up to milliseconds.
        self._timer = open_timer()
        self._greenlet = gevent.spawn(self._dispatch, due)

    @property
    def waiting(self) -> int:
        """How many are due and have not been taken."""
        return int(self._queue.qsize())

    def take(self) -> int:
        """The next arrival that is due; waits for it."""
        due: int = self._queue.get()
        return due

    def drop(self) -> int:
        """Forget what is due and was not taken; returns how many."""
        dropped = 0
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                return dropped
            dropped += 1

    def stop(self) -> None:
        """No further arrivals."""
        self._greenlet.kill()
        if self._timer >= 0:
            os.close(self._timer)
            self._timer = -1

    def _dispatch(self, arrivals: Iterator[int]) -> None:
        for due in arrivals:
            self._sleep_until(due)
            self._queue.put(due)
            if self._queue.qsize() > 1:
                # A schedule that is behind must still let answers be read.
                gevent.sleep(0)

    def _sleep_until(self, moment: int) -> None:
        if moment <= time.monotonic_ns():
            return
        set_timer(self._timer, moment)
        wait_read(self._timer)
        os.read(self._timer, 8)
