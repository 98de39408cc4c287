"""One process of the load on a peer's server: `python -m plansmith_perf.peers.worker PLAN`.

The same closed loop, records and conversation with the parent as `plansmith_perf.load.worker`; other bodies than those
of the Open Inference Protocol, and every peer over HTTP by the same sender.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from plansmith_perf.load.http_sender import Decode, HttpSender
from plansmith_perf.load.senders import Sender, open_sender
from plansmith_perf.load.worker import WorkerPlan, run
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

    module: ClassVar[str] = "plansmith_perf.peers.worker"

    body: Literal["v2"] | BodyFormat
    outputs: tuple[tuple[str, str], ...] = ()


def main() -> None:
    """Run the plan that the command line names."""
    plan = PeerPlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    # All connections at once, before the load: a server that runs short of them shows it here.
    asyncio.run(run(plan, lambda: _open(plan), at_first=plan.concurrency))


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
