"""The server's side of a load test: its own statistics, and what its processes use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.addresses import Address
from plansmith_perf.load.server_side import read_counters, server_side
from plansmith_perf.load.usage import UsageMeter, server_processes

if TYPE_CHECKING:
    from plansmith_perf.results import ServerSide, Usage

__all__ = ["ServerWatch"]


class ServerWatch:
    """Two readings, at the beginning and at the end of the measurement.

    Args:
        url: of the server.
        model: its model's name.
        version: of it; "" for all.
    """

    def __init__(self, url: str, model: str, version: str) -> None:
        self.url = url
        self._of = (url, model, version)
        # Here, because it takes its time.
        self._processes = server_processes(Address.parse(url))
        self._meter: UsageMeter | None = None
        self._before = self._after = read_counters(*self._of)

    def begin(self) -> None:
        """The measurement begins."""
        self._meter = UsageMeter(self._processes)
        self._before = read_counters(*self._of)

    def look(self) -> None:
        """Take a reading, so that a server which ends does not take all with it."""
        if self._meter is not None:
            self._meter.read()

    def end(self) -> None:
        """It has ended."""
        if self._meter is not None:
            self._meter.read()
            self._after = read_counters(*self._of)

    @property
    def is_gone(self) -> bool:
        """Whether the server told its statistics at the beginning, and not at the end."""
        return self._before is not None and self._after is None

    def server_side(self) -> ServerSide | None:
        """Triton's statistics in between."""
        return server_side(self._before, self._after) if self._meter is not None else None

    def usage(self) -> Usage | None:
        """What the server's processes used; None where it runs elsewhere."""
        return self._meter.usage() if self._meter is not None else None
