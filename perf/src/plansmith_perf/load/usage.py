"""CPU and memory of groups of processes."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from plansmith_perf.results.documents import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plansmith_client.transports.addresses import Address

__all__ = ["UsageMeter", "server_processes"]


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
                process = psutil.Process(connection.pid)
                return [process, *process.children(recursive=True)]
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
