"""Puts the load of one round on a peer, from processes that all peers get alike, and measures it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plansmith_perf.load.analysis import shares_per_second
from plansmith_perf.load.processes import Workers
from plansmith_perf.load.summary import summarize
from plansmith_perf.load.watching import Watch
from plansmith_perf.results.documents import ClosedLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    import psutil
    from numpy.typing import NDArray

    from plansmith_perf.comparing.answers import Agreement
    from plansmith_perf.load.server_side import Counters
    from plansmith_perf.load.worker import WorkerPlan
    from plansmith_perf.results.documents import Measurement

__all__ = ["Contestant", "RoundOptions", "measure_round"]

_TICK_SECONDS = 0.05


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

    def ask_together(self, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[dict[str, NDArray[Any]]]:
        """The answer to each of several requests that it gets at once, while it is idle otherwise."""
        ...

    def prepare(self, agreement: Agreement) -> None:
        """Write the requests of the load down."""
        ...

    def plans(self, options: RoundOptions, folder: Path) -> Sequence[WorkerPlan]:
        """What each process of a load does, at least one; records go to `folder`."""
        ...

    def counters(self) -> Counters | None:
        """The statistics of its server; None where it has none."""
        ...


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
        Workers(contestant.plans(options, Path(folder)), Path(folder)) as workers,
    ):
        start = workers.start()
        begin = start + int(options.warmup_seconds * 1e9)
        end = begin + int(options.seconds * 1e9)
        server = contestant.processes
        watch = Watch(server=server, client=workers.processes, counters=contestant.counters)
        while workers.running:
            now = time.monotonic_ns()
            progress(min(1.0, (now - start) / 1e9 / total))
            watch.look(now, begin, end)
            time.sleep(_TICK_SECONDS)
        watch.finish()
        records, outcomes = workers.collect(begin)
    return summarize(
        ClosedLoop(concurrency=options.concurrency),
        batch_size=options.batch_size,
        everything=records,
        outcomes=outcomes,
        throughput=shares_per_second(records, options.seconds),
        watch=watch,
        # In process the load is the work itself.
        busiest=watch.client.busiest() if server else 0.0,
        warmup_seconds=options.warmup_seconds,
        seconds=options.seconds,
        percentiles=options.percentiles,
    )
