"""CPU and memory of groups of processes, and the server's counters, while a load is on."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from plansmith_perf.results.documents import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from plansmith_client.transports.addresses import Address
    from plansmith_perf.load.server_side import Counters

__all__ = ["UsageMeter", "Watch", "family_of", "server_processes"]


def family_of(pid: int) -> list[psutil.Process]:
    """A process and its descendants; none where it has ended."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def server_processes(address: Address) -> list[psutil.Process]:
    """The processes of the server that listens at `address` on this machine; none where it is elsewhere or hidden."""
    with contextlib.suppress(psutil.Error, OSError):
        addresses = {info[4][0] for info in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)}
        mine = {a.address for group in psutil.net_if_addrs().values() for a in group}
        if not addresses & mine:
            return []
        for connection in psutil.net_connections(kind="tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.pid is not None
            if listening and connection.laddr.port == address.port:
                return family_of(connection.pid)
    return []


@dataclass(frozen=True)
class _Reading:
    moment: float
    seconds: dict[int, float]
    memory: int


class UsageMeter:
    """Measures the processes from construction on."""

    def __init__(self, processes: Iterable[psutil.Process]) -> None:
        self._processes = list(processes)
        self._first = self._last = self._read()

    def read(self) -> None:
        """Take a reading; the last one counts, so that a process which ended since does not spoil it."""
        reading = self._read()
        if reading.seconds:
            self._last = reading

    def usage(self) -> Usage | None:
        """CPU between the first and the last reading, memory at the last; None where there was nothing to measure."""
        duration = self._last.moment - self._first.moment
        if not self._last.seconds or duration <= 0:
            return None
        used = sum(value - self._first.seconds.get(pid, 0.0) for pid, value in self._last.seconds.items())
        return Usage(cpu_percent=100 * used / duration, memory=self._last.memory, processes=len(self._last.seconds))

    def busiest(self) -> float:
        """CPU of the busiest process, in per cent of one core."""
        duration = self._last.moment - self._first.moment
        used = [value - self._first.seconds.get(pid, 0.0) for pid, value in self._last.seconds.items()]
        return 100 * max(used, default=0.0) / duration if duration > 0 else 0.0

    def _read(self) -> _Reading:
        seconds: dict[int, float] = {}
        memory = 0
        for process in self._processes:
            with contextlib.suppress(psutil.Error):
                times, resident = process.cpu_times(), process.memory_info().rss
                # A zombie, which has ended but was not waited for, has no memory left.
                if resident:
                    memory += resident
                    seconds[process.pid] = times.user + times.system
        return _Reading(time.monotonic(), seconds, memory)


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
        """Take the first readings."""
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
