"""One process of the load on a peer's server: `python -m plansmith_perf.peers.worker PLAN`.

The same closed loop, records and conversation with the parent as `plansmith_perf.load.worker`, which also sends what
the Open Inference Protocol says; this one sends other bodies too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import aiohttp
import numpy as np

from plansmith_perf.errors import PerfError
from plansmith_perf.load.senders import EncodedRequest, Sender, open_sender
from plansmith_perf.load.worker import Recorder, WorkerPlan, closed_loop, read_requests
from plansmith_perf.peers.bodies import BodyFormat, Tensor, decode_body
from plansmith_perf.requests import check_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BodySender", "PeerPlan", "main"]

_RIGHT = ""
_SHOWN_CHARACTERS = 200


class PeerPlan(WorkerPlan):
    """What a worker has to do.

    Attributes:
        body: "v2" for the Open Inference Protocol, over gRPC or HTTP as the URL says.
        outputs: name and dtype of each, in the model's order; for other bodies.
    """

    body: Literal["v2"] | BodyFormat
    outputs: tuple[tuple[str, str], ...] = ()


class BodySender:
    """POST requests on as many connections as there are requests in flight."""

    def __init__(
        self, url: str, body_format: BodyFormat, outputs: Sequence[Tensor], *, timeout: float, tolerance: float
    ) -> None:
        self._url = url
        self._format = body_format
        self._outputs = outputs
        self._tolerance = tolerance
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=timeout)
        )

    async def send(self, request: EncodedRequest) -> str:
        """See `plansmith_perf.load.senders.Sender`."""
        try:
            async with self._session.post(self._url, data=request.body, headers=request.headers) as response:
                body = await response.read()
        except TimeoutError:
            return "TIMEOUT: no answer within the time that a request may take"
        except (aiohttp.ClientError, OSError) as error:
            return _one_line(f"{type(error).__name__}: {error}")
        if not response.ok:
            return _one_line(f"HTTP {response.status}: {body.decode(errors='replace')}")
        if body == request.right:
            return _RIGHT
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            answer = decode_body(self._format, self._outputs, headers, body)
            check_answer(answer, request.expected, tolerance=self._tolerance)
        except PerfError as error:
            return _one_line(f"WRONG ANSWER: {error}")
        request.right = body
        return _RIGHT

    async def close(self) -> None:
        """See `plansmith_perf.load.senders.Sender`."""
        await self._session.close()


def main() -> None:
    """Run the plan that the command line names."""
    plan = PeerPlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    asyncio.run(_run(plan))


async def _run(plan: PeerPlan) -> None:
    sender = _open(plan)
    requests = read_requests(Path(plan.requests))
    recorder = Recorder()
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    try:
        # All connections at once, before the load: a server that runs short of them shows it here.
        await asyncio.gather(*(sender.send(requests[0]) for _ in range(plan.concurrency)))
        print("ready", flush=True)  # noqa: T201 - the conversation with the parent
        word = (await commands.readline()).strip()
        if not word:
            return
        first = plan.offset % len(requests)
        order = itertools.cycle(requests[first:] + requests[:first])
        await closed_loop(plan, sender, order, recorder, int(word))
        np.save(plan.records, np.frombuffer(recorder.times, dtype=np.int64).reshape(-1, 4), allow_pickle=False)
        print(json.dumps(list(recorder.outcomes)), flush=True)  # noqa: T201
    finally:
        await sender.close()


def _open(plan: PeerPlan) -> Sender:
    if plan.body == "v2":
        return open_sender(plan.url, plan.path, timeout=plan.timeout, tolerance=plan.tolerance)
    outputs = [Tensor(name, dtype, ()) for name, dtype in plan.outputs]
    return BodySender(plan.url + plan.path, plan.body, outputs, timeout=plan.timeout, tolerance=plan.tolerance)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


if __name__ == "__main__":
    main()
