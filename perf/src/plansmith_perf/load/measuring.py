"""Puts one load on a server and measures it."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plansmith_client.addresses import Address
from plansmith_perf.load.analysis import Records, distribution, samples_needed, stability, timeline
from plansmith_perf.load.arrivals import due_times
from plansmith_perf.load.processes import Workers
from plansmith_perf.load.server_side import read_counters, server_side
from plansmith_perf.load.usage import UsageMeter, server_processes
from plansmith_perf.load.worker import WorkerPlan
from plansmith_perf.results import ClosedLoop, Measurement, OpenLoop, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["MeasuringOptions", "Target", "measure"]

_TICK_SECONDS = 0.1
_CHECK_NANOSECONDS = 500_000_000
_MESSAGES_KEPT = 20
# A generator that is busier than this, in per cent of a core, measures itself.
_BUSY_PERCENT = 90.0
_LATE_SHARE = 0.1


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
        watch = _Watch(target, address, workers)
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
    measurement = _measurement(
        target=target,
        load=load,
        options=options,
        everything=records,
        outcomes=outcomes,
        watch=watch,
        seconds=lasted,
        complete=not interruption,
    )
    return measurement, interruption


class _Watch:
    """Readings at the beginning and at the end of the measurement proper."""

    def __init__(self, target: Target, address: Address, workers: Workers) -> None:
        self._target = target
        self._server = server_processes(address)
        self._workers = workers.processes
        self._begun = False
        self._ended = False
        self._start()

    def _start(self) -> None:
        self.server = UsageMeter(self._server)
        self.client = UsageMeter(self._workers)
        self.before = self.after = read_counters(self._target.url, self._target.model, self._target.version)

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
            self.after = read_counters(self._target.url, self._target.model, self._target.version)


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


def _measurement(
    *,
    target: Target,
    load: ClosedLoop | OpenLoop,
    options: MeasuringOptions,
    everything: Records,
    outcomes: list[str],
    watch: _Watch,
    seconds: float,
    complete: bool,
) -> Measurement:
    inside = (everything.due >= 0) & (everything.due < seconds * 1e9)
    records = everything.select(inside)
    counted = zip(outcomes, inside.tolist(), strict=True)
    failures = Counter(outcome for outcome, is_inside in counted if outcome and is_inside)
    answered = records.select(records.right)
    # Those sent during the warm-up and answered after it make up for those that are answered after the end.
    in_time = everything.right & (everything.done >= 0) & (everything.done < seconds * 1e9)
    throughput = float(in_time.sum() / seconds) if seconds else 0.0
    errors = int((~records.right).sum())
    client = watch.client.usage() or Usage(cpu_percent=0.0, memory=0, processes=0)
    steady = stability(everything, seconds) if seconds else None
    lag = records.sent - records.due
    return Measurement(
        load=load,
        seconds=seconds,
        warmup_seconds=options.warmup_seconds,
        warmup_requests=int((everything.due < 0).sum()),
        complete=complete,
        requests=int(records.due.size),
        errors=errors,
        error_rate=errors / max(1, records.due.size),
        error_messages=dict(failures.most_common(_MESSAGES_KEPT)),
        throughput=throughput,
        rows_per_second=throughput * target.batch_size,
        latency=distribution(answered.done - answered.due, options.percentiles),
        service=distribution(answered.done - answered.sent, options.percentiles),
        dispatch_lag=distribution(lag, options.percentiles) if isinstance(load, OpenLoop) else None,
        stability=steady,
        timeline=timeline(records, seconds),
        server_side=server_side(watch.before, watch.after),
        server_usage=watch.server.usage(),
        client_usage=client,
        notes=_notes(
            load=load,
            options=options,
            answered=answered,
            lag=lag,
            busiest=watch.client.busiest(),
            stable=steady is None or steady.stable,
        ),
    )


def _notes(
    *,
    load: ClosedLoop | OpenLoop,
    options: MeasuringOptions,
    answered: Records,
    lag: NDArray[np.int64],
    busiest: float,
    stable: bool,
) -> list[str]:
    notes = []
    short = [percent for percent in options.percentiles if answered.due.size < samples_needed(percent)]
    if short:
        notes.append(
            f"too short for p{short[0]:g}: it takes {samples_needed(short[0]):,} answers, there were "
            f"{answered.due.size:,}; measure for longer with --seconds"
        )
    if not stable:
        notes.append("not stable: the throughput of its parts differs by more than 10 % and more than chance explains")
    if busiest > _BUSY_PERCENT:
        notes.append(
            f"the client is the bottleneck: one of its processes used {busiest:.0f} % of a core; give it more with "
            "--workers, or a machine of its own"
        )
    elif isinstance(load, OpenLoop) and answered.due.size:
        service = float(np.median(answered.done - answered.sent))
        if float(np.percentile(lag, 99)) > max(1e6, _LATE_SHARE * service):
            notes.append("the client was late: one request in a hundred was sent well after it was due")
    return notes


def _refuses(address: Address) -> bool:
    """Whether nothing listens any more: other faults may pass, and are counted as errors."""
    with contextlib.suppress(TimeoutError, socket.gaierror):
        try:
            socket.create_connection((address.host, address.port), timeout=1.0).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
