"""How fast a candidate is in this process, always in turn with the FP32 model, since a machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_build.engines import Runtime
    from plansmith_build.engines.onnxruntime import Arrays

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
    request: Arrays,
    *,
    rows: int,
    rate: Callable[[float], float] | None = None,
) -> Speed:
    """Run both in turn, a few rounds of less than a second; the reference itself alone, at a ratio of 1.

    Args:
        candidate: what is measured.
        reference: the FP32 model.
        request: what both are asked.
        rows: how many rows the request has.
        rate: times the candidate where the clock of this process is not the right one: takes the seconds to measure
            for, and gives rows a second.

    Raises:
        RunFailed: one of them reports an error.
    """
    for runtime in {candidate, reference}:
        _rate(runtime, request, rows, seconds=0)
    if candidate is reference:
        rates = [_rate(reference, request, rows, SECONDS_PER_ROUND) for _ in range(ROUNDS)]
        return Speed.of_rounds(rates, rates)
    own = rate or (lambda seconds: _rate(candidate, request, rows, seconds))
    pairs = [(own(SECONDS_PER_ROUND), _rate(reference, request, rows, SECONDS_PER_ROUND)) for _ in range(ROUNDS)]
    return Speed.of_rounds([rate for rate, _ in pairs], [rate for _, rate in pairs])


def gains_by_batching(
    runtime: Runtime, request: Arrays, *, rows: int, clock: Callable[[], float] = time.perf_counter
) -> bool:
    """Whether batches as a server joins them, of one size and then of another, are faster than row after row.

    ONNX Runtime's CUDA provider chooses the algorithms of convolutions anew whenever the size changes: ResNet-50 took
    0.1 to 0.7 s more on an H200 for it, and 3 ms where the size stayed.

    Args:
        runtime: what is measured.
        request: all its inputs have one row for each of the batch.
        rows: how many rows the request has.
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
    return statistics.median(batches) <= rows * statistics.median(single_rows)


def _rate(runtime: Runtime, request: Arrays, rows: int, seconds: float) -> float:
    started = time.perf_counter()
    runs = 0
    while True:
        runtime.run(request)
        runs += 1
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return runs * rows / elapsed
