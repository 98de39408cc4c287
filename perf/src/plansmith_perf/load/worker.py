"""One process of the load generator: `python -m plansmith_perf.load.worker PLAN`.

PLAN is a JSON file, see `WorkerPlan`. The worker connects, says "ready" on stdout, and waits on stdin for the start,
nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. The end of stdin stops it early: it sends no
more and waits a moment for the answers to requests in flight. What happened to each request goes to files, see
`plansmith_perf.load.recording`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from plansmith_client.protocol.operations import Infer
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.http.wire import EXCHANGES, Reply
from plansmith_perf.load.encoded_requests import RIGHT, read_requests
from plansmith_perf.load.grpc_sender import GrpcSender
from plansmith_perf.load.http_sender import HttpSender
from plansmith_perf.load.recording import RequestLog, write_logs
from plansmith_perf.load.timers import PreciseTimer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["WorkerPlan", "main", "run"]

# A server that is gone refuses at once: asking it without a pause would only burn the processor.
PAUSE_AFTER_ERROR_SECONDS = 0.01
# Triton 2.51 may crash when requests are given up over gRPC: triton-inference-server/server#8034.
LAST_ANSWERS_SECONDS = 2.0
# How long after its end an open loop still sends what is overdue.
LATEST_SECONDS = 1.0
UNSENT = "never sent: the load generator did not keep up with the rate"


class WorkerPlan(BaseModel):
    """What a worker has to do.

    Attributes:
        url: the server, as for the SDK's client.
        path: of the inference endpoint, HTTP only.
        timeout: seconds that a request may take.
        tolerance: see `check_answer`.
        seconds: how long requests are sent.
        concurrency: requests in flight in closed loop; 0 for an open loop.
        due: .npy file of due times in nanoseconds after the start, for an open loop.
        requests: folder with `<i>.request`, `<i>.headers` (JSON) and `<i>.answer` (ModelInferResponse).
        records: the .npy file to write; the outcomes go to the .json file next to it.
        offset: which request comes first.
        at_first: requests at once before the load, see `run`.
    """

    model_config = ConfigDict(frozen=True)

    module: ClassVar[str] = "plansmith_perf.load.worker"
    """What is run with the plan."""

    module_folder: ClassVar[Path | None] = None
    """Where that module is looked for first; for one that no distribution has."""

    url: str = ""
    path: str = ""
    timeout: float
    tolerance: float
    seconds: float
    concurrency: int
    due: str = ""
    requests: str
    records: str
    offset: int = 0
    at_first: int = 1


Sender = GrpcSender | HttpSender


def open_sender(url: str, path: str, *, timeout: float, tolerance: float) -> Sender:
    """The sender for a server; call it in a running event loop."""
    address = Address.parse(url)
    if address.scheme in ("grpc", "grpcs"):
        return GrpcSender(address, timeout=timeout, tolerance=tolerance)
    url = f"{address.scheme}://{address.target}{address.path}{path}"
    return HttpSender(url, _decode, timeout=timeout, tolerance=tolerance)


def _decode(headers: Mapping[str, str], body: bytes) -> Mapping[str, NDArray[Any]]:
    answer: Mapping[str, NDArray[Any]] = EXCHANGES[Infer].answer(Reply(headers, body))
    return answer


Send = Callable[[int | None], Coroutine[Any, Any, bool]]
"""Sends the next request, which is due at a moment or now, and notes it; gives whether the answer was right."""


async def closed_loop(plan: WorkerPlan, send: Send, *, start: int, stopping: asyncio.Event) -> None:
    """Keep `concurrency` requests in flight until the end or the stop, then wait for the last answers."""
    end = start + int(plan.seconds * 1e9)

    async def user() -> None:
        await asyncio.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        while time.monotonic_ns() < end and not stopping.is_set():
            if not await send(None):
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)

    await asyncio.gather(*(user() for _ in range(plan.concurrency)))


async def open_loop(plan: WorkerPlan, send: Send, log: RequestLog, *, start: int, stopping: asyncio.Event) -> None:
    """Send each request when it is due, whether or not others have been answered; then wait for the last answers.

    A schedule that this process cannot follow ends a moment after its time is over: what is left was never sent.
    """
    timer = PreciseTimer()
    tasks: set[asyncio.Task[bool]] = set()

    async def follow_schedule() -> None:
        schedule = np.load(plan.due, allow_pickle=False)
        last = start + int((plan.seconds + LATEST_SECONDS) * 1e9)
        for number, due in enumerate(schedule.tolist()):
            if (now := time.monotonic_ns()) > last:
                log.add_unsent(start + schedule[number:], now, UNSENT)
                return
            await timer.sleep_until(start + due)
            task = asyncio.ensure_future(send(start + due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            # A schedule that is behind must still let answers be read.
            await asyncio.sleep(0)

    sending = asyncio.ensure_future(follow_schedule())
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({sending, stop}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
        sending.cancel()
        await asyncio.gather(*tasks)
    finally:
        timer.close()
        for task in (sending, stop, *tasks):
            task.cancel()


async def run(plan: WorkerPlan, open_: Callable[[], Sender]) -> None:
    """Do what the plan says and write down what happened.

    Before the load `at_first` requests are sent at once, each on a connection of its own where the protocol has one for
    each request in flight: what it takes to connect is nobody's latency.
    """
    sender = open_()
    requests = read_requests(Path(plan.requests))
    log = RequestLog()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    try:
        await asyncio.gather(*(sender.send(requests[0]) for _ in range(plan.at_first)))
        print("ready", flush=True)  # noqa: T201 - the protocol with the parent
        word = (await commands.readline()).strip()
        if not word:
            return
        first = plan.offset % len(requests)
        order = itertools.cycle(requests[first:] + requests[:first])

        async def send(due: int | None) -> bool:
            sent = time.monotonic_ns()
            done, outcome = await sender.send(next(order))
            log.add(sent if due is None else due, sent, done, outcome)
            return outcome == RIGHT

        start, stopping = int(word), asyncio.Event()
        work = (
            closed_loop(plan, send, start=start, stopping=stopping)
            if plan.concurrency
            else open_loop(plan, send, log, start=start, stopping=stopping)
        )
        job = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(commands.read())
        await asyncio.wait({job, stop}, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        await asyncio.wait({job}, timeout=LAST_ANSWERS_SECONDS)
        job.cancel()
        stop.cancel()
        finished = await asyncio.gather(job, stop, return_exceptions=True)
        for failure in finished:
            if isinstance(failure, Exception):
                raise failure
        write_logs([log], plan.records)
    finally:
        await sender.close()


def main() -> None:
    """Run the plan that the command line names."""
    plan = WorkerPlan.model_validate_json(Path(sys.argv[1]).read_bytes())

    def open_() -> Sender:
        return open_sender(plan.url, plan.path, timeout=plan.timeout, tolerance=plan.tolerance)

    asyncio.run(run(plan, open_))


if __name__ == "__main__":
    main()
