"""Runs a command and watches the memory and the processor time of it and of everything that it starts."""

from __future__ import annotations

import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Watched", "run_watched"]

SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Watched:
    """A command that ended.

    Attributes:
        output: its standard output.
        seconds: how long it took.
        cpu_seconds: of it and of what it has waited for, in user mode and in the kernel.
        peak_bytes: the largest sum of the resident memory of its processes, what they share counted for each.
    """

    output: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run_watched(command: Sequence[str]) -> Watched:
    """Run a command to its end; its standard error goes to ours.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    started, used = time.perf_counter(), _cpu_seconds()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while not done.wait(SAMPLE_SECONDS):
            try:
                family = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            peak = max(peak, sum(map(_resident, family)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Watched(output, time.perf_counter() - started, _cpu_seconds() - used, peak)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
