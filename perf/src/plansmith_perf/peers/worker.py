"""One process of the load on a peer's server: `python -m plansmith_perf.peers.worker PLAN`.

The same closed loop, records and conversation with the parent as `plansmith_perf.load.worker`; other bodies than those
of the Open Inference Protocol, and every peer over HTTP by the same sender.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from plansmith_perf.load.http_sender import Decode, HttpSender
from plansmith_perf.load.senders import Sender, open_sender
from plansmith_perf.load.worker import Recorder, WorkerPlan, closed_loop, read_requests
from plansmith_perf.peers.bodies import BodyFormat, Tensor, decode_body

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["PeerPlan", "main"]


class PeerPlan(WorkerPlan):
    """What a worker has to do.

    Attributes:
        body: "v2" for the Open Inference Protocol, over gRPC or HTTP as the URL says.
        outputs: name and dtype of each, in the model's order; for other bodies.
    """

    body: Literal["v2"] | BodyFormat
    outputs: tuple[tuple[str, str], ...] = ()


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
    decode = _decoder(plan.body, plan.outputs)
    return HttpSender(plan.url + plan.path, decode, timeout=plan.timeout, tolerance=plan.tolerance)


def _decoder(body_format: BodyFormat, outputs: Sequence[tuple[str, str]]) -> Decode:
    tensors = [Tensor(name, dtype, ()) for name, dtype in outputs]
    return lambda headers, body: decode_body(body_format, tensors, headers, body)


if __name__ == "__main__":
    main()
