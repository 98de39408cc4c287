"""What happened to each request of a load, and figures that take the whole of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Records", "samples_needed", "shares_per_second"]

_BEYOND = 10


@dataclass(frozen=True)
class Records:
    """What happened to each request: arrays of one length, nanoseconds after the start of the measurement.

    Attributes:
        due: when each should have been sent.
        sent: when it was.
        done: when it was answered.
        right: whether the answer was right.
    """

    due: NDArray[np.int64]
    sent: NDArray[np.int64]
    done: NDArray[np.int64]
    right: NDArray[np.bool_]

    def select(self, which: NDArray[np.bool_]) -> Records:
        """Some of them."""
        return Records(self.due[which], self.sent[which], self.done[which], self.right[which])

    @classmethod
    def join(cls, parts: Sequence[Records]) -> Records:
        """All of several, at least one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def shares_per_second(records: Records, seconds: float) -> float:
    """Right answers, each counted by the share of its time that lies inside the measurement.

    Where a request takes a good part of that, as a whole batch in process does, it would be a matter of luck which of
    them end inside. Only for closed loops: where a queue grows, it counts what is never answered in time.
    """
    end = seconds * 1e9
    right = records.select(records.right)
    duration = np.maximum(right.done - right.sent, 1)
    overlap = np.clip(right.done, 0, end) - np.clip(right.sent, 0, end)
    return float((overlap / duration).sum() / seconds)


def samples_needed(percentile: float) -> int:
    """How many answers it takes for ten of them to lie beyond the percentile; with fewer it is the luck of a few."""
    return math.ceil(round(_BEYOND / (1 - percentile / 100), 6))
