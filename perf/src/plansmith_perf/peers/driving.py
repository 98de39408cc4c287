"""Puts the load of one round on a peer, from processes that all peers get alike, and measures it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from plansmith_perf.load.analysis import distribution, samples_needed, stability, timeline
from plansmith_perf.load.processes import Workers
from plansmith_perf.load.server_side import server_side
from plansmith_perf.load.usage import UsageMeter
from plansmith_perf.results import ClosedLoop, Measurement, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    import psutil
    from numpy.typing import NDArray

    from plansmith_perf.load.analysis import Records
    from plansmith_perf.load.server_side import Counters
    from plansmith_perf.load.worker import WorkerPlan
    from plansmith_perf.peers.answers import Agreement

__all__ = ["WRONG_ANSWER", "Contestant", "Driver", "Drivers", "RoundOptions", "measure_round"]

WRONG_ANSWER = "WRONG ANSWER"

_TICK_SECONDS = 0.05
_MESSAGES_KEPT = 20
_BUSY_PERCENT = 90.0


@dataclass(frozen=True)
class RoundOptions:
    """How a round is measured; seconds for times.

    Attributes:
        concurrency: requests in flight.
        seconds: length of a measurement.
        warmup_seconds: load before it that does not count.
        workers: processes that send to a server.
        timeout: that a request may take.
        batch_size: rows a request.
        percentiles: asked for, in per cent.
    """

    concurrency: int
    seconds: float
    warmup_seconds: float
    workers: int
    timeout: float
    batch_size: int
    percentiles: Sequence[float]


@dataclass(frozen=True)
class Driver:
    """One process of a load.

    Attributes:
        module: what it runs, with the path of the plan as its argument; speaks as `plansmith_perf.load.worker` does.
        plan: what it has to do.
    """

    module: str
    plan: WorkerPlan


class Contestant(Protocol):
    """A peer that runs.

    Attributes:
        versions: of its packages.
    """

    versions: Mapping[str, str]

    @property
    def detail(self) -> str:
        """What was found out about its setup while it was prepared, or ""."""
        ...

    @property
    def processes(self) -> Sequence[psutil.Process]:
        """Of its server; none for what has no server of its own."""
        ...

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One answer, while it is idle."""
        ...

    def prepare(self, agreement: Agreement) -> None:
        """Write the requests of the load down."""
        ...

    def drivers(self, options: RoundOptions, folder: Path) -> Sequence[Driver]:
        """The processes of a load; records go to `folder`."""
        ...

    def counters(self) -> Counters | None:
        """The statistics of its server; None where it has none."""
        ...


class Drivers(Workers):
    """The processes of one load, each of a module of its own.

    Args:
        drivers: at least one.
        folder: for the plans; exists.
    """

    def __init__(self, drivers: Sequence[Driver], folder: Path) -> None:
        self._plans = [driver.plan for driver in drivers]
        self._processes: list[subprocess.Popen[str]] = []
        for number, driver in enumerate(drivers):
            path = folder / f"plan-{number}.json"
            path.write_text(driver.plan.model_dump_json(), encoding="utf-8")
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", driver.module, str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    process_group=0,
                )
            )


def measure_round(
    contestant: Contestant, options: RoundOptions, *, progress: Callable[[float], None] = lambda _: None
) -> Measurement:
    """Put the load on a peer once.

    Args:
        contestant: prepared.
        options: for how long, and so on.
        progress: called with the share of the time that has passed.

    Raises:
        KeyboardInterrupt: Ctrl-C; the load's processes have ended.
        PerfError: a process of the load failed.
    """
    total = options.warmup_seconds + options.seconds
    with (
        tempfile.TemporaryDirectory(prefix="plansmith-round-") as folder,
        Drivers(contestant.drivers(options, Path(folder)), Path(folder)) as drivers,
    ):
        start = drivers.start()
        begin = start + int(options.warmup_seconds * 1e9)
        end = begin + int(options.seconds * 1e9)
        watch: _Watch | None = None
        while drivers.running:
            now = time.monotonic_ns()
            progress(min(1.0, (now - start) / 1e9 / total))
            if watch is None and now >= begin:
                watch = _Watch(contestant, drivers)
            elif watch is not None:
                watch.look(ended=now >= end)
            time.sleep(_TICK_SECONDS)
        records, outcomes = drivers.collect(begin)
    return _measurement(options, records, outcomes, watch)


class _Watch:
    """Readings from the beginning to the end of the measurement proper."""

    def __init__(self, contestant: Contestant, drivers: Drivers) -> None:
        self._contestant = contestant
        self._ended = False
        self.server = UsageMeter(contestant.processes)
        self.client = UsageMeter(drivers.processes)
        self.before = self.after = contestant.counters()

    def look(self, *, ended: bool) -> None:
        """Take the readings that are due."""
        if self._ended:
            return
        self.server.read()
        self.client.read()
        if ended:
            self._ended = True
            self.after = self._contestant.counters()


def _measurement(
    options: RoundOptions, everything: Records, outcomes: Sequence[str], watch: _Watch | None
) -> Measurement:
    nanoseconds = options.seconds * 1e9
    inside = (everything.due >= 0) & (everything.due < nanoseconds)
    records = everything.select(inside)
    counted = zip(outcomes, inside.tolist(), strict=True)
    failures = Counter(outcome for outcome, is_inside in counted if outcome and is_inside)
    answered = records.select(records.right)
    throughput = _throughput(everything, options.seconds)
    latency = distribution(answered.done - answered.due, options.percentiles)
    errors = int((~records.right).sum())
    client = watch.client.usage() if watch else None
    short = next((percent for percent in options.percentiles if answered.due.size < samples_needed(percent)), None)
    notes = []
    if short is not None:
        notes.append(
            f"too short for p{short:g}: it takes {samples_needed(short):,} answers, there were {answered.due.size:,}"
        )
    busiest = watch.client.busiest() if watch else 0.0
    if busiest > _BUSY_PERCENT and watch is not None and watch.server.usage() is not None:
        notes.append(f"the client may be the bottleneck: one of its processes used {busiest:.0f} % of a core")
    return Measurement(
        load=ClosedLoop(concurrency=options.concurrency),
        seconds=options.seconds,
        warmup_seconds=options.warmup_seconds,
        warmup_requests=int((everything.due < 0).sum()),
        complete=True,
        requests=int(records.due.size),
        errors=errors,
        error_rate=errors / max(1, records.due.size),
        error_messages=dict(failures.most_common(_MESSAGES_KEPT)),
        throughput=throughput,
        rows_per_second=throughput * options.batch_size,
        latency=latency,
        service=latency,
        dispatch_lag=None,
        stability=stability(everything, options.seconds),
        timeline=timeline(records, options.seconds),
        server_side=server_side(watch.before, watch.after) if watch else None,
        server_usage=watch.server.usage() if watch else None,
        client_usage=client or Usage(cpu_percent=0.0, memory=0, processes=0),
        notes=notes,
    )


def _throughput(everything: Records, seconds: float) -> float:
    """Right answers a second.

    A request counts by the share of its time that lies inside the measurement: where one takes a good part of that, as
    a whole batch in process does, counting those that end inside would be a matter of luck.
    """
    nanoseconds = seconds * 1e9
    right = everything.select(everything.right)
    duration = np.maximum(right.done - right.sent, 1)
    overlap = np.clip(right.done, 0, nanoseconds) - np.clip(right.sent, 0, nanoseconds)
    return float((overlap / duration).sum() / seconds)
