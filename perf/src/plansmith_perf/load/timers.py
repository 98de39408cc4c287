"""Timers that are precise to microseconds, Linux's timerfd: asyncio's own, and gevent's, round up to milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

__all__ = ["PreciseTimer", "open_timer", "set_timer"]

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def open_timer() -> int:
    """The file descriptor of a new timer; reading its eight bytes makes it ready for the next moment.

    Raises:
        OSError: the system has no more.
    """
    descriptor = int(_libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create failed")
    return descriptor


def set_timer(descriptor: int, moment: int) -> None:
    """Have it become readable at `moment`, nanoseconds of `time.monotonic_ns`.

    Raises:
        OSError: the descriptor is not a timer.
    """
    spec = _TimerSpec(_Timespec(0, 0), _Timespec(*divmod(moment, 1_000_000_000)))
    if _libc.timerfd_settime(descriptor, _ABSOLUTE, ctypes.byref(spec), None):
        raise OSError(ctypes.get_errno(), "timerfd_settime failed")


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
