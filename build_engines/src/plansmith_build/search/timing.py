"""How fast a candidate is in this process, always in turn with the FP32 model, since a machine's speed drifts."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_build.engines import Runtime
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.search.workload import Workload

__all__ = ["Speed", "gains_by_batching", "time_against"]

# Many short rounds: the median is blind to those that something else disturbs.
ROUNDS = 5
SECONDS_PER_ROUND = 0.15


@dataclass(frozen=True)
class Speed:
    """Two speeds measured in turn.

    Attributes:
        rows_per_second: the candidate's, the median of all rounds.
        reference_rows_per_second: the reference's, likewise: the FP32 model on ONNX Runtime.
        ratio: the median of the rounds' ratios.
    """

    rows_per_second: float
    reference_rows_per_second: float
    ratio: float

    @classmethod
    def of_rounds(cls, rates: Sequence[float], references: Sequence[float]) -> Speed:
        """From the rows a second of each round."""
        return cls(
            rows_per_second=statistics.median(rates),
            reference_rows_per_second=statistics.median(references),
            ratio=statistics.median(rate / other for rate, other in zip(rates, references, strict=True)),
        )


def time_against(
    candidate: Runtime,
    reference: Runtime,
    workload: Workload,
    *,
    rate: Callable[[float], float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Run both in turn, a few rounds of less than a second; the reference itself alone, at a ratio of 1.

    Where all requests take long, there are fewer rounds than of a single request, so that they take no longer in all.

    Args:
        candidate: what is measured.
        reference: the FP32 model. Both have answered the requests before: what first runs make ready is not timed.
        workload: what both are asked, all of it in every round.
        rate: times the candidate where the clock of this process is not the right one: takes the seconds to measure
            for, and gives rows a second.
        clock: gives seconds.

    Raises:
        RunFailed: one of them reports an error.
    """

    def turn() -> tuple[float, float]:
        if candidate is reference:
            alone = _rate(reference, workload, clock)
            return alone, alone
        own = rate(SECONDS_PER_ROUND) if rate else _rate(candidate, workload, clock)
        return own, _rate(reference, workload, clock)

    turns = [turn()]
    once = workload.rows * len(workload.requests) / turns[0][1]
    share = _seconds_per_round(once / workload.effort) / _seconds_per_round(once)
    turns += [turn() for _ in range(1, int(ROUNDS * min(1.0, share)))]
    return Speed.of_rounds([own for own, _ in turns], [other for _, other in turns])


def gains_by_batching(runtime: Runtime, request: Arrays, *, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether batches as a server joins them, of one size and then of another, are faster than row after row.

    ONNX Runtime's CUDA provider chooses the algorithms of convolutions anew whenever the size changes: ResNet-50 took
    0.1 to 0.7 s more on an H200 for it, and 3 ms where the size stayed.

    Args:
        runtime: what is measured.
        request: all its inputs have one row for each of the batch.
        clock: gives seconds.

    Raises:
        RunFailed: it reports an error.
    """

    def seconds(batch: Arrays) -> float:
        started = clock()
        runtime.run(batch)
        return clock() - started

    one_row = {name: array[:1] for name, array in request.items()}
    seconds(one_row)
    # Each batch follows one of another size, and each row another row.
    batches, single_rows = [], []
    for _ in range(ROUNDS):
        batches.append(seconds(request))
        seconds(one_row)
        single_rows.append(seconds(one_row))
    rows = len(next(iter(request.values())))
    return statistics.median(batches) <= rows * statistics.median(single_rows)


def _seconds_per_round(once: float) -> float:
    return once * math.ceil(SECONDS_PER_ROUND / once)


def _rate(runtime: Runtime, workload: Workload, clock: Callable[[], float]) -> float:
    started = clock()
    runs = 0
    while True:
        for request in workload.requests:
            runtime.run(request)
        runs += len(workload.requests)
        elapsed = clock() - started
        if elapsed >= SECONDS_PER_ROUND:
            return runs * workload.rows / elapsed
