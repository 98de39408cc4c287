"""Puts one load on a server and measures it."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.repository.staging import temporary_folder
from plansmith_client.transports.addresses import Address
from plansmith_perf.load.arrivals import due_times
from plansmith_perf.load.processes import Workers
from plansmith_perf.load.server_side import read_counters
from plansmith_perf.load.summary import summarize, tally_of
from plansmith_perf.load.usage import Watch, server_processes
from plansmith_perf.load.worker import WorkerPlan
from plansmith_perf.results.documents import ClosedLoop, OpenLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import psutil

    from plansmith_perf.load.analysis import Records
    from plansmith_perf.load.server_side import Counters
    from plansmith_perf.results.documents import Measurement

__all__ = ["MeasuringOptions", "Target", "default_workers", "measure", "put_load", "shared_out"]

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
    tolerance: float = 1e-3
    percentiles: Sequence[float] = (50.0, 90.0, 95.0, 99.0)
    seed: int = 0


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

    Returns:
        The measurement, and why it ended early: "", "Ctrl-C", or that the server is gone.

    Raises:
        plansmith_perf.PerfError: the load generator itself failed.
    """
    address = Address.parse(target.url)
    with temporary_folder() as folder:
        return put_load(
            _plans(target, load, options, folder),
            folder,
            load,
            options,
            batch_size=target.batch_size,
            server=lambda: server_processes(address),
            counters=lambda: read_counters(target.url, target.model, target.version),
            address=address,
            progress=progress,
        )


def put_load(
    plans: Sequence[WorkerPlan],
    folder: Path,
    load: ClosedLoop | OpenLoop,
    options: MeasuringOptions,
    *,
    batch_size: int,
    server: Callable[[], Sequence[psutil.Process]],
    counters: Callable[[], Counters | None],
    address: Address | None = None,
    in_process: bool = False,
    throughput: Callable[[Records, float], float] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Measurement, str]:
    """Run the processes of a load and measure what they do.

    Args:
        plans: of the processes.
        folder: for what they say; exists.
        load: that they make together.
        options: for how long, and so on.
        batch_size: rows a request.
        server: gives the processes of the server.
        counters: reads the statistics of the server.
        address: of the server, to notice that it is gone; None: nobody looks, and Ctrl-C is raised.
        in_process: whether the processes of the load compute what they ask for.
        throughput: right answers per second, of records and seconds; None: those that came in time.
        progress: called with the share of the time that has passed.

    Returns:
        See `measure`.

    Raises:
        KeyboardInterrupt: Ctrl-C, where there is no address; the processes have ended.
        PerfError: a process of the load failed.
    """
    total = options.warmup_seconds + options.seconds
    interruption = ""
    with Workers(plans, folder) as workers:
        start = workers.start()
        begin = start + int(options.warmup_seconds * 1e9)
        watch = Watch(server=server(), client=workers.processes, counters=counters)
        next_check = start
        try:
            while workers.running:
                now = time.monotonic_ns()
                progress(min(1.0, (now - start) / 1e9 / total))
                watch.look(now, begin, begin + int(options.seconds * 1e9))
                # Not at each look: a connection is work for the server.
                if address is not None and now >= next_check:
                    if _refuses(address):
                        interruption = f"the server at {address.url} is gone"
                        break
                    next_check = now + _CHECK_NANOSECONDS
                time.sleep(_TICK_SECONDS)
        except KeyboardInterrupt:
            if address is None:
                raise
            interruption = "Ctrl-C"
        ended = time.monotonic_ns()
        watch.finish()
        workers.stop()
        records, outcomes = workers.collect(begin)
    lasted = min(options.seconds, max(0.0, (ended - begin) / 1e9)) if interruption else options.seconds
    tally = tally_of(records, outcomes, lasted)
    measurement = summarize(
        tally,
        load,
        batch_size=batch_size,
        throughput=throughput(records, lasted) if throughput else tally.per_second(lasted),
        watch=watch,
        busiest=0.0 if in_process else None,
        warmup_seconds=options.warmup_seconds,
        seconds=lasted,
        percentiles=options.percentiles,
        complete=not interruption,
    )
    return measurement, interruption


def _plans(target: Target, load: ClosedLoop | OpenLoop, options: MeasuringOptions, folder: Path) -> list[WorkerPlan]:
    common = {"url": target.url, "path": target.path, "requests": str(target.requests)}
    if isinstance(load, ClosedLoop):
        return [WorkerPlan.model_validate({**plan, **common}) for plan in shared_out(load.concurrency, options, folder)]
    due = due_times(load, seconds=options.warmup_seconds + options.seconds, seed=options.seed)
    plans = []
    for number, plan in enumerate(shared_out(options.workers, options, folder)):
        np.save(folder / f"due-{number}.npy", due[number :: options.workers], allow_pickle=False)
        own = {"concurrency": 0, "due": str(folder / f"due-{number}.npy")}
        plans.append(WorkerPlan.model_validate({**plan, **common, **own}))
    return plans


def shared_out(concurrency: int, options: MeasuringOptions, folder: Path) -> list[dict[str, Any]]:
    """What the plan of each process of a load says of its part; records go to `folder`."""
    count = min(options.workers, concurrency)
    return [
        {
            "timeout": options.timeout,
            "tolerance": options.tolerance,
            "seconds": options.warmup_seconds + options.seconds,
            "concurrency": concurrency // count + (number < concurrency % count),
            "records": str(folder / f"records-{number}.npy"),
            "offset": number,
        }
        for number in range(count)
    ]


def _refuses(address: Address) -> bool:
    """Whether nothing listens any more: other faults may pass, and are counted as errors."""
    try:
        socket.create_connection((address.host, address.port), timeout=1.0).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return False
