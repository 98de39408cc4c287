"""One process of the load on a server with HTTP bodies of its own: `python -m peers.worker PLAN`.

The same closed loop, records and conversation with the parent as `plansmith_perf.load.worker`; other bodies than those
of the Open Inference Protocol.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from peers.bodies import BodyFormat, Tensor, decode_body
from plansmith_perf.load.http_sender import Decode, HttpSender
from plansmith_perf.load.worker import WorkerPlan, run

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BodyPlan", "main"]


class BodyPlan(WorkerPlan):
    """What a worker has to do.

    Attributes:
        body: of requests and answers.
        outputs: name and dtype of each, in the model's order.
    """

    module: ClassVar[str] = "peers.worker"
    module_folder: ClassVar[Path | None] = Path(__file__).parents[1]

    body: BodyFormat
    outputs: tuple[tuple[str, str], ...]


def main() -> None:
    """Run the plan that the command line names."""
    plan = BodyPlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    decode = _decoder(plan.body, plan.outputs)

    def open_() -> HttpSender:
        return HttpSender(plan.url + plan.path, decode, timeout=plan.timeout, tolerance=plan.tolerance)

    asyncio.run(run(plan, open_))


def _decoder(body_format: BodyFormat, outputs: Sequence[tuple[str, str]]) -> Decode:
    tensors = [Tensor(name, dtype, ()) for name, dtype in outputs]
    return lambda headers, body: decode_body(body_format, tensors, headers, body)


if __name__ == "__main__":
    main()
