"""A client library under load: `python -m plansmith_perf.comparing.client_driver PLAN`.

One process with as many threads, or tasks of asyncio, as there are to be requests in flight; each sends its next
request when it has the answer to the last one, as arrays.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plansmith_perf.comparing.client_calls import (
    AsyncCall,
    Call,
    ClientKind,
    is_async,
    open_async_call,
    open_calls,
)
from plansmith_perf.comparing.conversation import read_arrays, wait_for_start
from plansmith_perf.load.encoded_requests import RIGHT, one_line, outcome_of
from plansmith_perf.load.recording import RequestLog, write_logs
from plansmith_perf.load.worker import PAUSE_AFTER_ERROR_SECONDS, WorkerPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["ClientPlan", "main"]

Arrays = dict[str, "NDArray[Any]"]


class ClientPlan(WorkerPlan):
    """What a process has to do.

    Attributes:
        kind: the library, and how it is called.
        model: its name.
        outputs: their names.
    """

    module: ClassVar[str] = "plansmith_perf.comparing.client_driver"

    kind: ClientKind
    model: str
    outputs: tuple[str, ...]


class Check:
    """Compares one user's answers: whole the first time, by bytes from then on."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._right: dict[int, list[bytes]] = {}

    def __call__(self, which: int, answer: Mapping[str, NDArray[Any]], expected: Arrays) -> str:
        """What is wrong with the answer to request `which`, or RIGHT."""
        told = [array.tobytes() for array in answer.values() if array is not None]
        if told == self._right.get(which):
            return RIGHT
        outcome = outcome_of(answer, expected, tolerance=self._tolerance)
        if outcome == RIGHT:
            self._right[which] = told
        return outcome


def main() -> None:
    """Run the plan that the command line names."""
    plan = ClientPlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    pairs = read_arrays(Path(plan.requests))
    logs = asyncio.run(_with_tasks(plan, pairs)) if is_async(plan.kind) else _with_threads(plan, pairs)
    write_logs(logs, plan.records)


def _with_threads(plan: ClientPlan, pairs: Sequence[tuple[Arrays, Arrays]]) -> list[RequestLog]:
    logs = [RequestLog() for _ in range(plan.concurrency)]

    def user(number: int, call: Call, begin: threading.Event, times: list[int]) -> None:
        check = Check(plan.tolerance)
        # Connects; its duration is nobody's latency.
        _outcome_of(call, pairs[0], 0, check)
        ready.release()
        begin.wait()
        time.sleep(max(0.0, (times[0] - time.monotonic_ns()) / 1e9))
        turn = number
        while (sent := time.monotonic_ns()) < times[1]:
            which = turn % len(pairs)
            outcome, done = _outcome_of(call, pairs[which], which, check)
            logs[number].add(sent, sent, done, outcome)
            turn += 1
            if outcome:
                time.sleep(PAUSE_AFTER_ERROR_SECONDS)

    with ExitStack() as stack:
        calls = open_calls(plan.kind, plan.url, plan.model, plan.outputs, threads=plan.concurrency, stack=stack)
        ready, begin, times = threading.Semaphore(0), threading.Event(), [0, 0]
        threads = [
            threading.Thread(target=user, args=(number, call, begin, times), daemon=True)
            for number, call in enumerate(calls)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            ready.acquire()
        start = wait_for_start()
        times[:] = [start, start + int(plan.seconds * 1e9)]
        begin.set()
        for thread in threads:
            thread.join()
    return logs


def _outcome_of(call: Call, pair: tuple[Arrays, Arrays], which: int, check: Check) -> tuple[str, int]:
    inputs, expected = pair
    try:
        answer = call(inputs)
    except Exception as error:  # noqa: BLE001 - each library has its own, and tritonclient lets sockets' through
        return _error(error), time.monotonic_ns()
    done = time.monotonic_ns()
    return check(which, answer, expected), done


async def _with_tasks(plan: ClientPlan, pairs: Sequence[tuple[Arrays, Arrays]]) -> list[RequestLog]:
    log = RequestLog()

    async def user(number: int, call: AsyncCall, start: int, end: int) -> None:
        check = Check(plan.tolerance)
        await asyncio.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        turn = number
        while (sent := time.monotonic_ns()) < end:
            which = turn % len(pairs)
            inputs, expected = pairs[which]
            turn += 1
            try:
                answer = await call(inputs)
            except Exception as error:  # noqa: BLE001 - as above
                log.add(sent, sent, time.monotonic_ns(), _error(error))
                await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
                continue
            done = time.monotonic_ns()
            log.add(sent, sent, done, check(which, answer, expected))

    async with AsyncExitStack() as stack:
        call = await open_async_call(plan.kind, plan.url, plan.model, plan.outputs, stack=stack)
        await call(pairs[0][0])
        start = wait_for_start()
        end = start + int(plan.seconds * 1e9)
        await asyncio.gather(*(user(number, call, start, end) for number in range(plan.concurrency)))
    return [log]


def _error(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
