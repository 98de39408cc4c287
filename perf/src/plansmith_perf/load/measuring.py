"""Puts one load on a server and measures it."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plansmith_client.transports.addresses import Address
from plansmith_perf.load.analysis import answers_per_second
from plansmith_perf.load.arrivals import due_times
from plansmith_perf.load.processes import Workers
from plansmith_perf.load.server_side import read_counters
from plansmith_perf.load.summary import summarize
from plansmith_perf.load.usage import server_processes
from plansmith_perf.load.watching import Watch
from plansmith_perf.load.worker import WorkerPlan
from plansmith_perf.results.documents import ClosedLoop, OpenLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.results.documents import Measurement

__all__ = ["MeasuringOptions", "Target", "default_workers", "measure"]

_TICK_SECONDS = 0.1
_CHECK_NANOSECONDS = 500_000_000


@dataclass(frozen=True)
class Target:
    """What is asked.

    Attributes:
        url: the server.
        model: its model's name.
        version: of the model; "" for the server's choice.
        path: of the inference endpoint, HTTP only.
        requests: folder of encoded requests.
        batch_size: rows a request.
    """

    url: str
    model: str
    version: str
    path: str
    requests: Path
    batch_size: int


@dataclass(frozen=True)
class MeasuringOptions:
    """How it is measured; seconds for times.

    Attributes:
        seconds: length of a measurement.
        warmup_seconds: load before it that does not count.
        workers: processes that send.
        timeout: that a request may take.
        tolerance: see `check_answer`.
        percentiles: asked for, in per cent.
        seed: of Poisson arrivals.
    """

    seconds: float
    warmup_seconds: float
    workers: int
    timeout: float
    tolerance: float
    percentiles: Sequence[float]
    seed: int


def default_workers() -> int:
    """How many processes send: one for two cores, because the server usually shares them and needs the others."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def measure(
    target: Target,
    load: ClosedLoop | OpenLoop,
    options: MeasuringOptions,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Measurement, str]:
    """Put one load on a server: warm-up, measurement, and the wait for the last answers.

    Args:
        target: what is asked.
        load: how.
        options: for how long, and so on.
        progress: called with the share of the time that has passed.

    Returns:
        The measurement, and why it ended early: "", "Ctrl-C", or that the server is gone.

    Raises:
        plansmith_perf.PerfError: the load generator itself failed.
    """
    total = options.warmup_seconds + options.seconds
    address = Address.parse(target.url)
    interruption = ""
    with (
        tempfile.TemporaryDirectory(prefix="plansmith-load-") as folder,
        Workers(_plans(target, load, options, Path(folder)), Path(folder)) as workers,
    ):
        start = workers.start()
        begin = start + int(options.warmup_seconds * 1e9)
        watch = Watch(
            server=server_processes(address),
            client=workers.processes,
            counters=lambda: read_counters(target.url, target.model, target.version),
        )
        next_check = start
        try:
            while workers.running:
                now = time.monotonic_ns()
                progress(min(1.0, (now - start) / 1e9 / total))
                watch.look(now, begin, begin + int(options.seconds * 1e9))
                # Not at each look: a connection is work for the server.
                if now >= next_check and _refuses(address):
                    interruption = f"the server at {target.url} is gone"
                    break
                next_check = now + _CHECK_NANOSECONDS if now >= next_check else next_check
                time.sleep(_TICK_SECONDS)
        except KeyboardInterrupt:
            interruption = "Ctrl-C"
        ended = time.monotonic_ns()
        watch.finish()
        workers.stop()
        records, outcomes = workers.collect(begin)
    lasted = min(options.seconds, max(0.0, (ended - begin) / 1e9)) if interruption else options.seconds
    measurement = summarize(
        load,
        batch_size=target.batch_size,
        everything=records,
        outcomes=outcomes,
        throughput=answers_per_second(records, lasted),
        watch=watch,
        busiest=watch.client.busiest(),
        warmup_seconds=options.warmup_seconds,
        seconds=lasted,
        percentiles=options.percentiles,
        complete=not interruption,
    )
    return measurement, interruption


def _plans(target: Target, load: ClosedLoop | OpenLoop, options: MeasuringOptions, folder: Path) -> list[WorkerPlan]:
    total = options.warmup_seconds + options.seconds
    workers = min(options.workers, load.concurrency) if isinstance(load, ClosedLoop) else options.workers
    due = due_times(load, seconds=total, seed=options.seed) if isinstance(load, OpenLoop) else None
    plans = []
    for number in range(workers):
        concurrency = 0
        if isinstance(load, ClosedLoop):
            concurrency = load.concurrency // workers + (number < load.concurrency % workers)
        if due is not None:
            np.save(folder / f"due-{number}.npy", due[number::workers], allow_pickle=False)
        plans.append(
            WorkerPlan(
                url=target.url,
                path=target.path,
                timeout=options.timeout,
                tolerance=options.tolerance,
                seconds=total,
                concurrency=concurrency,
                due=str(folder / f"due-{number}.npy"),
                requests=str(target.requests),
                records=str(folder / f"records-{number}.npy"),
                offset=number,
            )
        )
    return plans


def _refuses(address: Address) -> bool:
    """Whether nothing listens any more: other faults may pass, and are counted as errors."""
    try:
        socket.create_connection((address.host, address.port), timeout=1.0).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return False
