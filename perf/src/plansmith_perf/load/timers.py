"""An asyncio timer that is precise to microseconds: asyncio's own rounds up to milliseconds on Linux."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

__all__ = ["PreciseTimer"]

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class PreciseTimer:
    """Linux's timerfd in the running event loop; one waiter at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._descriptor = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop.add_reader(self._descriptor, self._expired)

    async def sleep_until(self, moment: int) -> None:
        """Return at `moment`, nanoseconds of `time.monotonic_ns`; at once if it has passed."""
        if moment <= time.monotonic_ns():
            return
        self._waiter = self._loop.create_future()
        spec = _TimerSpec(_Timespec(0, 0), _Timespec(*divmod(moment, 1_000_000_000)))
        if _libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        await self._waiter

    def close(self) -> None:
        """Free the timer."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _expired(self) -> None:
        os.read(self._descriptor, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
