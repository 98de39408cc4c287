"""One process of the load generator: `python -m plansmith_perf.load.worker PLAN`.

PLAN is a JSON file, see `WorkerPlan`. The worker connects, says "ready" on stdout, and waits on stdin for the start,
nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. The end of stdin stops it early. Records go to
a .npy file: int64 [n, 4], when a request was due, sent and answered (nanoseconds) and the index of its outcome in the
JSON list that the worker prints at the end.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict
from tritonclient.grpc import service_pb2

from plansmith_client.operations import Infer
from plansmith_client.transports.grpc_wire import RPCS
from plansmith_perf.load.encoded_requests import EncodedRequest
from plansmith_perf.load.senders import Sender, open_sender
from plansmith_perf.load.timers import PreciseTimer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["WorkerPlan", "main"]

# A server that is gone refuses at once: asking it without a pause would only burn the processor.
PAUSE_AFTER_ERROR_SECONDS = 0.01


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
        records: the file to write.
        offset: which request comes first.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    path: str
    timeout: float
    tolerance: float
    seconds: float
    concurrency: int
    due: str
    requests: str
    records: str
    offset: int


class Recorder:
    """What happened to each request."""

    def __init__(self) -> None:
        self.times = array("q")
        self.outcomes: dict[str, int] = {}

    async def send(self, sender: Sender, request: EncodedRequest, due: int | None) -> bool:
        """Send one request and record it; `due` None means now. Returns whether the answer was right."""
        sent = time.monotonic_ns()
        done, outcome = await sender.send(request)
        number = self.outcomes.setdefault(outcome, len(self.outcomes))
        self.times.extend((sent if due is None else due, sent, done, number))
        return not outcome


async def closed_loop(
    plan: WorkerPlan, sender: Sender, requests: Iterator[EncodedRequest], recorder: Recorder, start: int
) -> None:
    """Keep `concurrency` requests in flight until the end, then wait for the last answers."""
    end = start + int(plan.seconds * 1e9)

    async def user() -> None:
        await asyncio.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        while time.monotonic_ns() < end:
            if not await recorder.send(sender, next(requests), None):
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)

    await asyncio.gather(*(user() for _ in range(plan.concurrency)))


async def open_loop(
    plan: WorkerPlan, sender: Sender, requests: Iterator[EncodedRequest], recorder: Recorder, start: int
) -> None:
    """Send each request when it is due, whether or not others have been answered; then wait for the last answers."""
    timer = PreciseTimer()
    tasks: set[asyncio.Task[bool]] = set()
    try:
        for due in np.load(plan.due, allow_pickle=False).tolist():
            await timer.sleep_until(start + due)
            task = asyncio.ensure_future(recorder.send(sender, next(requests), start + due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            # A schedule that is behind must still let answers be read.
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
    finally:
        timer.close()
        for task in tasks:
            task.cancel()


async def run(plan: WorkerPlan) -> None:
    """Do what the plan says and write the records."""
    sender = open_sender(plan.url, plan.path, timeout=plan.timeout, tolerance=plan.tolerance)
    requests = read_requests(Path(plan.requests))
    recorder = Recorder()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    # The first call connects; its duration is nobody's latency.
    await sender.send(requests[0])
    print("ready", flush=True)  # noqa: T201 - the protocol with the parent
    try:
        word = (await commands.readline()).strip()
        if not word:
            return
        order = itertools.cycle(requests[plan.offset % len(requests) :] + requests[: plan.offset % len(requests)])
        work = closed_loop if plan.concurrency else open_loop
        job = asyncio.ensure_future(work(plan, sender, order, recorder, int(word)))
        stop = asyncio.ensure_future(commands.read())
        await asyncio.wait({job, stop}, return_when=asyncio.FIRST_COMPLETED)
        job.cancel()
        stop.cancel()
        finished = await asyncio.gather(job, stop, return_exceptions=True)
        for failure in finished:
            if isinstance(failure, Exception):
                raise failure
        np.save(plan.records, np.frombuffer(recorder.times, dtype=np.int64).reshape(-1, 4), allow_pickle=False)
        print(json.dumps(list(recorder.outcomes)), flush=True)  # noqa: T201
    finally:
        await sender.close()


def read_requests(folder: Path) -> list[EncodedRequest]:
    """The requests of a plan, in order."""
    requests = []
    for path in sorted(folder.glob("*.request")):
        answer = service_pb2.ModelInferResponse.FromString(path.with_suffix(".answer").read_bytes())
        headers = json.loads(path.with_suffix(".headers").read_text(encoding="utf-8"))
        requests.append(EncodedRequest(path.read_bytes(), headers, dict(RPCS[Infer].answer(answer))))
    return requests


def main() -> None:
    """Run the plan that the command line names."""
    plan = WorkerPlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    asyncio.run(run(plan))


if __name__ == "__main__":
    main()
