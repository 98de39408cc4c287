"""Regions made once and lent to one request after another; those of requests that were given up wait in quarantine."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RegionPool"]

_LONGEST_PATIENCE = 60.0
# Triton answers a request before it lets go of the request's region.
_EVICTED_SECONDS = 1.0


_Kept = TypeVar("_Kept", bound="_Region")


class _Region(Protocol):
    size: int

    def close(self) -> None:
        """Free the memory."""


class RegionPool(Generic[_Kept]):
    """The regions of one kind for one server. Safe to use from many threads.

    Args:
        limit: the most bytes of all regions together, those in quarantine included.

    Attributes:
        patience: seconds after which the server is first asked to give up a region in quarantine; doubled each time
            that it refuses.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.patience = 1.0
        self._free: list[_Kept] = []
        self._made: list[_Kept] = []
        self._quarantine: dict[_Kept, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def lend(self, size: int, make: Callable[[], _Kept], fits: Callable[[_Kept], bool]) -> _Kept | None:
        """A region of at least `size` bytes that is not in use; None if the limit does not allow another one.

        Raises:
            OSError: the system has no memory left for it.
        """
        with self._lock:
            fitting = [region for region in self._free if region.size >= size and fits(region)]
            if fitting:
                region = min(fitting, key=lambda candidate: candidate.size)
                self._free.remove(region)
                return region
            lacking = sum(made.size for made in self._made) + size - self._limit
            if lacking > 0:
                # What is in quarantine is going to be room as well.
                self._make_room(lacking - sum(region.size for region in self._quarantine))
                return None
            region = make()
            self._made.append(region)
            return region

    def _make_room(self, lacking: float) -> None:
        """Let later requests have the room of regions that nobody uses, once the server has given these up."""
        if lacking <= sum(region.size for region in self._free):
            until = time.monotonic() + _EVICTED_SECONDS
            while lacking > 0:
                region = self._free.pop(0)
                self._quarantine[region] = until, self.patience
                lacking -= region.size

    def take_back(self, region: _Kept) -> None:
        """The request has been answered: the region may be lent again."""
        with self._lock:
            self._free.append(region)

    def drop(self, region: _Kept) -> None:
        """Discard a region that is not registered with the server, or no longer."""
        with self._lock:
            # Not in it after `drain`.
            self._made = [made for made in self._made if made is not region]
            self._quarantine.pop(region, None)
        region.close()

    def quarantine(self, region: _Kept) -> None:
        """Keep a region whose request was given up: the server may still use it."""
        with self._lock:
            _, patience = self._quarantine.get(region, (0.0, self.patience / 2))
            patience = min(2 * patience, max(self.patience, _LONGEST_PATIENCE))
            self._quarantine[region] = time.monotonic() + patience, patience

    @property
    def quarantined(self) -> int:
        """How many regions are in quarantine."""
        return len(self._quarantine)

    def due(self) -> list[_Kept]:
        """The regions in quarantine that the server should be asked about now: `drop` or `quarantine` must follow."""
        if not self._quarantine:
            return []
        with self._lock:
            now = time.monotonic()
            regions = [region for region, (at, _) in self._quarantine.items() if at <= now]
            for region in regions:
                # Not for two callers at once.
                self._quarantine[region] = math.inf, self._quarantine[region][1]
            return regions

    def drain(self) -> tuple[list[_Kept], list[_Kept]]:
        """All regions, which the pool no longer has: those that nothing uses, and those that the server may use."""
        with self._lock:
            free, used = self._free, [region for region in self._made if region not in self._free]
            self._made, self._free, self._quarantine = [], [], {}
        return free, used
