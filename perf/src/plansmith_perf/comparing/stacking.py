"""Puts requests together as a program can that has them all at hand, and takes the answers apart again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_perf.comparing.engines import Compute

__all__ = ["answers_of", "batch_sizes", "best_stack", "stack_requests"]

_TRIALS = 3


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, ... and `most`, in order."""
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == most else [*sizes, most]


def stack_requests(requests: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """One call's inputs: the rows of all requests, one after the other."""
    if len(requests) == 1:
        return dict(requests[0])
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def answers_of(outputs: Sequence[NDArray[Any]], names: Sequence[str], requests: int) -> list[dict[str, NDArray[Any]]]:
    """Each request's answer from what one call gave."""
    if requests == 1:
        return [dict(zip(names, outputs, strict=True))]
    parts = [np.split(output, requests) for output in outputs]
    return [dict(zip(names, answer, strict=True)) for answer in zip(*parts, strict=True)]


def best_stack(compute: Compute, requests: Sequence[Mapping[str, NDArray[Any]]], *, most: int) -> int:
    """How many requests a call should have: of 1, 2, 4, ... up to `most`, what takes the least time for each."""
    best, least = 1, float("inf")
    for size in batch_sizes(most):
        inputs = stack_requests([requests[number % len(requests)] for number in range(size)])
        try:
            compute(inputs)
        except Exception:  # noqa: BLE001, S112 - the runtime's own errors: the model does not take this size
            continue
        took = []
        for _ in range(_TRIALS):
            started = time.perf_counter()
            compute(inputs)
            took.append(time.perf_counter() - started)
        if min(took) / size < least:
            best, least = size, min(took) / size
    return best
