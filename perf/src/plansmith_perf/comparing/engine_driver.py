"""A model in process under load: `python -m plansmith_perf.comparing.engine_driver PLAN`.

As many requests as are to be in flight are computed in calls of `stack` requests each, over and over; the time of a
request is that of its call.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plansmith_perf.comparing.conversation import read_arrays, wait_for_start
from plansmith_perf.comparing.engines import EngineSpec, load_engine
from plansmith_perf.comparing.stacking import answers_of, stack_requests
from plansmith_perf.load.encoded_requests import RIGHT, outcome_of
from plansmith_perf.load.recording import RequestLog, write_logs
from plansmith_perf.load.worker import WorkerPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["EnginePlan", "main"]


class EnginePlan(WorkerPlan):
    """What a process has to do.

    Attributes:
        engine: what computes.
        stack: requests a call.
    """

    module: ClassVar[str] = "plansmith_perf.comparing.engine_driver"

    engine: EngineSpec
    stack: int


def main() -> None:
    """Run the plan that the command line names: compute until the end, and write down how long each call took."""
    plan = EnginePlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    compute, calls = load_engine(plan.engine), _calls(plan)
    compute(calls[0].inputs)
    start = wait_for_start()
    time.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
    end = start + int(plan.seconds * 1e9)
    log = RequestLog()
    for call in itertools.cycle(calls):
        sent = time.monotonic_ns()
        if sent >= end:
            break
        outputs = compute(call.inputs)
        done = time.monotonic_ns()
        # Compared outside the time of the call.
        for outcome in _check(plan, call, outputs):
            log.add(sent, sent, done, outcome)
    write_logs([log], plan.records)


@dataclass
class _Call:
    inputs: Mapping[str, NDArray[Any]]
    expected: Sequence[Mapping[str, NDArray[Any]]]
    right: list[bytes] = field(default_factory=list)


def _calls(plan: EnginePlan) -> list[_Call]:
    """Every request as part of a call; put together before the load, because a caller may hold one array as well."""
    pairs = read_arrays(Path(plan.requests))
    calls = []
    for first in range(0, max(plan.stack, len(pairs)), plan.stack):
        chosen = [pairs[(first + number) % len(pairs)] for number in range(plan.stack)]
        calls.append(_Call(stack_requests([inputs for inputs, _ in chosen]), [expected for _, expected in chosen]))
    return calls


def _check(plan: EnginePlan, call: _Call, outputs: Sequence[NDArray[Any]]) -> list[str]:
    """An outcome for each request: compared whole at first, and by bytes from then on."""
    told = [output.tobytes() for output in outputs]
    if told == call.right:
        return [RIGHT] * plan.stack
    answers = answers_of(outputs, plan.engine.outputs, plan.stack)
    outcomes = [
        outcome_of(answer, expected, tolerance=plan.tolerance)
        for answer, expected in zip(answers, call.expected, strict=True)
    ]
    if not any(outcomes):
        call.right = told
    return outcomes


if __name__ == "__main__":
    main()
