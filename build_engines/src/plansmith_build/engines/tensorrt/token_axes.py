"""Dimensions that count tokens: how short and how long a model itself takes them, so that a plan takes the same.

Sentences differ in length from request to request. Frozen to the length that the data happens to have, a plan refuses
every other. Pictures do not: other free dimensions are as the data has them, which kernels are fastest for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.reading.signatures import Signature

__all__ = ["TokenRange", "find_token_range", "token_axes"]

TokenRange = tuple[int, int]
"""The fewest and the most tokens."""

# Most encoders have a table of 512 positions; longer texts are for --profile.
LONGEST = (512, 256, 128, 64, 32)
SHORTEST = (1, 2, 4, 8, 16)


def token_axes(signature: Signature) -> frozenset[tuple[str, int]]:
    """The axes that count tokens, by input and position: those of whole numbers, and all that are called the same."""
    free = [
        (spec, axis, signature.symbols[spec.name][axis])
        for spec in signature.inputs
        for axis, size in enumerate(spec.shape)
        if axis > 0 and size < 0
    ]
    of_integers = [(spec, axis, symbol) for spec, axis, symbol in free if spec.datatype in {"INT32", "INT64"}]
    symbols = {symbol for _, _, symbol in of_integers} - {""}
    named = {(spec.name, axis) for spec, axis, symbol in free if symbol in symbols}
    return frozenset(named | {(spec.name, axis) for spec, axis, _ in of_integers})


def find_token_range(signature: Signature, request: Arrays, run: Callable[[Arrays], Any]) -> TokenRange | None:
    """The fewest and most tokens that a model answers; None where it has no such axis, or they differ in the data."""
    from plansmith_build.engines.onnxruntime import RunFailed  # noqa: PLC0415 - ONNX Runtime, not for `--help`

    axes = token_axes(signature)
    seen = {request[name].shape[axis] for name, axis in axes if name in request}
    if len(seen) != 1:
        return None
    (tokens,) = seen

    def first_that_runs(sizes: tuple[int, ...]) -> int:
        for size in sizes:
            try:
                run(_resized(request, axes, size))
            except RunFailed:
                continue
            return size
        return tokens

    return (
        first_that_runs(tuple(size for size in SHORTEST if size < tokens)),
        first_that_runs(tuple(size for size in LONGEST if size > tokens)),
    )


def _resized(
    request: Mapping[str, np.ndarray[Any, np.dtype[Any]]], axes: frozenset[tuple[str, int]], size: int
) -> Arrays:
    """One row of the request with so many tokens, its own repeated."""
    resized = {name: array[:1] for name, array in request.items()}
    for name, axis in axes:
        if name in resized:
            array = resized[name]
            resized[name] = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return resized
