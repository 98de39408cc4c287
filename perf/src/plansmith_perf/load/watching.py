"""Watches a server and a load generator while a load is on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.load.usage import UsageMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psutil

    from plansmith_perf.load.server_side import Counters

__all__ = ["Watch"]


class Watch:
    """Readings at the beginning and at the end of a measurement.

    Attributes:
        server: CPU and memory of its processes.
        client: the same of the load generator.
        before: the server's counters at the beginning.
        after: and at the end.
    """

    def __init__(
        self,
        *,
        server: Sequence[psutil.Process],
        client: Sequence[psutil.Process],
        counters: Callable[[], Counters | None],
    ) -> None:
        """Take the first readings.

        Args:
            server: those of its processes that are known.
            client: the processes of the load generator.
            counters: reads the server's statistics.
        """
        self._server = server
        self._client = client
        self._counters = counters
        self._begun = False
        self._ended = False
        self._start()

    def _start(self) -> None:
        self.server = UsageMeter(self._server)
        self.client = UsageMeter(self._client)
        self.before = self.after = self._counters()

    def look(self, now: int, begin: int, end: int) -> None:
        """Take the readings that are due."""
        if now >= begin and not self._begun:
            self._begun = True
            self._start()
        elif now < end:
            self.server.read()
            self.client.read()
        elif not self._ended:
            self.finish()

    def finish(self) -> None:
        """Take the last readings, once."""
        if not self._ended:
            self._ended = True
            self.server.read()
            self.client.read()
            self.after = self._counters()
