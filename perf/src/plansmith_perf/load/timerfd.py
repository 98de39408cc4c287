"""Linux's timerfd: a timer that is precise to microseconds, as a file that becomes readable."""

from __future__ import annotations

import ctypes
import os

__all__ = ["open_timer", "set_timer"]

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
