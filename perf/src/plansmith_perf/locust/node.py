"""One process of a load test: what its users send, when, and what it reports of it."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent
import gevent.event
import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from plansmith_client import Client, ClientError
from plansmith_perf.errors import LoadTestMisconfigured, PerfError
from plansmith_perf.load.arrivals import schedule
from plansmith_perf.load.recording import RequestLog, to_records
from plansmith_perf.load.samples import check_loadable, make_requests
from plansmith_perf.load.usage import UsageMeter
from plansmith_perf.locust.arrival_log import read_arrival_log
from plansmith_perf.locust.pacing import Arrivals
from plansmith_perf.results.documents import Usage  # noqa: TC001 - pydantic reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plansmith_perf.load.requests import CheckedRequest
    from plansmith_perf.load.tally import Tally
    from plansmith_perf.locust.options import LoadOptions

__all__ = ["LoadNode", "Prepared", "Report", "Share", "why_not_prepared"]

_POLL_SECONDS = 0.01
_UNSENT = "never sent: all users were busy until the end"
_UNANSWERED = "no answer before the end"


@dataclass(frozen=True)
class Prepared:
    """What the users of one protocol share.

    Attributes:
        url: of the server.
        model: its name.
        versions: of it that the server has.
        server: its name and version.
        served: how it serves the model.
        requests: what to send and to expect.
    """

    url: str
    model: str
    versions: tuple[str, ...]
    server: str
    served: str
    requests: tuple[CheckedRequest, ...]


@dataclass(frozen=True)
class Share:
    """Which part of the load a process has, and from when on.

    Attributes:
        run: which test it is.
        begin: seconds since the epoch, by the clock that all machines share.
        position: this process takes the arrivals of this number, ...
        of: ... and every one that many further.
    """

    run: float
    begin: float
    position: int
    of: int


class Report(BaseModel):
    """What has happened in a process since its last report; nanoseconds from the beginning of the measurement.

    Attributes:
        run: which test it belongs to.
        final: whether it is the last of this process.
        end: of the measurement; infinite where it is still on.
        table: of a `RequestLog`, little-endian.
        outcomes: that its last column counts.
        lost: how many requests were never sent, or not answered before the end.
        usage: of this process, in the last report.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: float
    final: bool
    end: float
    table: bytes
    outcomes: list[str]
    lost: dict[str, int]
    usage: Usage | None

    def add_to(self, tally: Tally) -> None:
        """Add it to the sum of all."""
        table = np.frombuffer(self.table, dtype="<i8").astype(np.int64).reshape(-1, 4)
        tally.add(*to_records(table, self.outcomes, 0), end=self.end)
        tally.add_lost(self.lost)


def why_not_prepared(error: Exception) -> tuple[str, int]:
    """What to say of a test that could not be prepared, and the exit code."""
    if isinstance(error, (ClientError, PerfError)):
        return str(error), error.exit_code
    return f"the load test cannot be prepared: {type(error).__name__}: {error}", 1


class LoadNode:
    """What the users of one process share during a test.

    Attributes:
        prepared: by protocol.
        started: set when the load begins.
        finishing: whether only what is overdue is sent.
        arrivals: of an open loop; None in a closed one.
        in_flight: how many users wait for an answer, or are about to send.
    """

    def __init__(self) -> None:
        self.prepared: dict[str, Prepared] = {}
        self.started = gevent.event.Event()
        self.finishing = False
        self.arrivals: Arrivals | None = None
        self._options: LoadOptions | None = None
        self._recorded_arrivals: list[float] = []
        self._duration = math.inf
        self._run: float | None = None
        self._log = RequestLog()
        self._lost: dict[str, int] = {}
        self._begin = 0
        self._end = math.inf
        self._meter: UsageMeter | None = None
        self.in_flight = 0
        self._closed = False

    @property
    def options(self) -> LoadOptions:
        """Those of the test."""
        if self._options is None:
            raise RuntimeError("the load test has not been prepared")
        return self._options

    def prepare(self, options: LoadOptions, protocols: Iterable[str]) -> float:
        """Make the requests of each protocol, and ask the idle server for their answers.

        Returns:
            How many seconds the load will last; infinite where only the user ends it.

        Raises:
            plansmith_client.ClientError: the server is not there, does not have the model, or does not answer.
            LoadTestMisconfigured: the options do not fit the model or the files.
            WrongAnswer: the idle server does not answer as the golden file says.
        """
        self.prepared = {}
        self.started = gevent.event.Event()
        self.finishing = self._closed = False
        self.arrivals = self._run = None
        self._end = math.inf
        self.in_flight = 0
        self._options = options
        duration = options.run_time or math.inf
        if options.arrival_log is not None:
            recorded = read_arrival_log(options.arrival_log, column=options.arrival_column)
            self._recorded_arrivals = recorded[recorded < duration].tolist()
            # The last one is sent too.
            duration = min(duration, float(recorded[-1]) + _POLL_SECONDS)
        self._duration = duration
        self.prepared = {protocol: _prepare(options, protocol) for protocol in protocols}
        return duration

    def start(self, share: Share, duration: float) -> None:
        """Begin to send.

        Args:
            share: of the load.
            duration: seconds after which no more is sent; infinite where that is not known.
        """
        origin = time.monotonic_ns() + int((share.begin - time.time()) * 1e9)
        self._run, self._log, self._lost = share.run, RequestLog(), {}
        self._begin, self._end = origin + int(self.options.warmup * 1e9), origin + duration * 1e9
        self._meter = UsageMeter([psutil.Process()])
        if self.options.is_open_loop and share.position < share.of:
            mine = itertools.islice(self._due(), share.position, None, share.of)
            self.arrivals = Arrivals(origin + int(due * 1e9) for due in mine)
        gevent.sleep(max(0.0, share.begin - time.time()))
        self.started.set()

    def _due(self) -> Iterator[float]:
        if self.options.load_shape == "replay":
            return iter(self._recorded_arrivals)
        return schedule(self.options.profile, arrivals=self.options.arrivals, seed=self.options.seed)

    @property
    def is_over(self) -> bool:
        """Whether no new request is to be sent."""
        return self.finishing or time.monotonic_ns() >= self._end

    @property
    def recorded_rate(self) -> float:
        """Requests per second of the log that is replayed, on average."""
        return len(self._recorded_arrivals) / self._duration

    def record(self, due: int, sent: int, done: int, outcome: str) -> None:
        """See `RequestLog.add`; what comes after the last report is lost, and was counted as unanswered."""
        if self._run is not None and not self._closed:
            self._log.add(due, sent, done, outcome)

    def finish(self) -> None:
        """Send nothing new but what is overdue, and wait for the answers, at most as long as a request may take."""
        if self.finishing:
            return
        self.finishing = True
        now = time.monotonic_ns()
        self._end = min(self._end, now)
        if self.arrivals is not None:
            self.arrivals.stop()
        deadline = now + int((self._options.timeout if self._options else 0.0) * 1e9)
        while (self.in_flight or self._overdue) and time.monotonic_ns() < deadline:
            gevent.sleep(_POLL_SECONDS)
        self._closed = True
        lost = {_UNSENT: self.arrivals.drop() if self.arrivals else 0, _UNANSWERED: self.in_flight}
        self._lost = {reason: number for reason, number in lost.items() if number}

    @property
    def _overdue(self) -> int:
        return self.arrivals.waiting if self.arrivals else 0

    def report(self) -> Report | None:
        """What happened since the last report; None before the start, and after the last one."""
        if self._run is None:
            return None
        log, self._log = self._log, RequestLog()
        table = log.table
        table[:, :3] -= self._begin
        usage = None
        if self._closed and self._meter is not None:
            self._meter.read()
            usage = self._meter.usage()
        report = Report(
            run=self._run,
            final=self._closed,
            end=self._end - self._begin,
            table=table.astype("<i8").tobytes(),
            outcomes=list(log.outcomes),
            lost=self._lost if self._closed else {},
            usage=usage,
        )
        if self._closed:
            self._run = None
        return report


def _prepare(options: LoadOptions, protocol: str) -> Prepared:
    url = options.grpc_url if protocol == "grpc" else options.http_url
    with Client(url, timeout=options.timeout) as client:
        server = client.server_metadata()
        model = client.model(options.model or _only_model(client), options.model_version)
        served = check_loadable(model)
        requests = make_requests(model, options.requests)
        versions = (options.model_version,) if options.model_version else tuple(model.metadata.versions)
        return Prepared(url, model.name, versions, f"{server.name} {server.version}", served, requests)


def _only_model(client: Client) -> str:
    names = sorted({status.name for status in client.models()})
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise LoadTestMisconfigured(f"the server has these models: {listed}; pick one with --model")
    return names[0]
