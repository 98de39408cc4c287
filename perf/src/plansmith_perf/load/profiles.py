"""How a load changes with time: piecewise linear levels of users or of requests per second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Profile", "Segment"]


@dataclass(frozen=True)
class Segment:
    """From `begin` to `end`, in seconds, the level goes from `first` to `last` along a line."""

    begin: float
    end: float
    first: float
    last: float

    @property
    def area(self) -> float:
        """The level summed up over time: how many requests, where it is a rate."""
        return (self.first + self.last) / 2 * (self.end - self.begin)


@dataclass(frozen=True)
class Profile:
    """Segments without gaps, from 0 on."""

    segments: tuple[Segment, ...]

    @property
    def duration(self) -> float:
        """Seconds; infinite for a load without an end."""
        return self.segments[-1].end

    def level(self, moment: float) -> float:
        """The level at a time, in seconds from the beginning; that of the end after it."""
        for segment in self.segments:
            if moment < segment.end:
                if math.isinf(segment.end):
                    return segment.first
                share = (moment - segment.begin) / (segment.end - segment.begin)
                return segment.first + share * (segment.last - segment.first)
        return self.segments[-1].last

    def moments(self, expected: NDArray[np.float64]) -> NDArray[np.float64]:
        """When a given number of requests is expected to have come, where the level is a rate.

        Args:
            expected: numbers of requests from 0 on, ascending.

        Returns:
            Seconds, of the same shape; infinite for more requests than come before the end.
        """
        found = np.full(expected.shape, np.inf)
        before = 0.0
        for segment in self.segments:
            inside = (expected >= before) & (expected < before + segment.area)
            surplus = expected[inside] - before
            slope = 0.0 if math.isinf(segment.end) else (segment.last - segment.first) / (segment.end - segment.begin)
            # The root of a parabola, in the form that also holds for a slope or a first level of 0.
            root = segment.first + np.sqrt(segment.first**2 + 2 * slope * surplus)
            found[inside] = segment.begin + np.divide(2 * surplus, root, out=np.zeros_like(surplus), where=root > 0)
            before += segment.area
        return found
