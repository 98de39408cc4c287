"""The noise floor of a graph: how far its answers move by rounding alone."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.engines.onnxruntime import LARGE_BYTES, RunFailed, Session
from plansmith_build.portable.comparison import TOLERANCES, compare
from plansmith_build.reading.number_formats import coarsest_float, quantization_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.reading.signatures import Signature

__all__ = ["noise_floor"]

# An answer that is quantized on the way jumps by about this much where a value rounds the other way.
_QUANTIZATION_STEP = 0.01
# What rounds by less than the measured noise is noise.
_MARGIN = 2.0
# Where answers move further than this, rounding no longer explains it.
_LARGEST = 0.25
# ONNX Runtime with and without its optimisations may differ by no more in a graph of FP32: one would be wrong.
_LARGEST_FP32 = 0.05
_STEPS = {
    "BF16": 2.0**-7,
    "FP16": float(np.finfo(np.float16).eps),
    "FP32": float(np.finfo(np.float32).eps),
    "FP64": float(np.finfo(np.float64).eps),
}


def noise_floor(
    file: OnnxFile,
    signature: Signature,
    run: Callable[[Arrays], Arrays],
    samples: Sequence[Arrays],
    answers: Sequence[Arrays],
) -> dict[str, float]:
    """The relative error to allow for each output by name, whatever its own type.

    It is at least what the coarsest type in the graph rounds to, and twice what is measured on the original file: with
    ONNX Runtime's optimisations against without, and on inputs one step of that type away.
    """
    model = file.network.model
    coarsest, quantized = coarsest_float(model), bool(quantization_of(model))
    floor = {
        name: max(
            _QUANTIZATION_STEP if quantized else 0.0,
            TOLERANCES[coarsest] if array.dtype.kind in "fV" else 0.0,
        )
        for name, array in answers[0].items()
    }
    exact = coarsest in {"FP32", "FP64"} and not quantized
    measured: list[tuple[dict[str, float], float]] = []
    step = _STEPS[coarsest]
    with contextlib.suppress(RunFailed):
        measured.append((_moved([run(_nudged(sample, step)) for sample in samples], answers), _LARGEST))
    if file.size <= LARGE_BYTES:
        with contextlib.suppress(RunFailed):
            optimized = Session(file.path, signature, optimized=True)
            moved = _moved([optimized.run(sample) for sample in samples], answers)
            measured.append((moved, _LARGEST_FP32 if exact else _LARGEST))
    for moved, largest in measured:
        for name, distance in moved.items():
            noise = _MARGIN * distance
            if noise <= largest:
                floor[name] = max(floor[name], noise)
    return floor


def _moved(given: Sequence[Arrays], answers: Sequence[Arrays]) -> dict[str, float]:
    """The greatest relative error of each output, infinite where shapes differ."""
    moved = dict.fromkeys(answers[0], 0.0)
    for answer, other in zip(answers, given, strict=True):
        for result in compare(answer, other):
            moved[result.name] = max(moved[result.name], result.max_relative_error)
    return moved


def _nudged(sample: Arrays, step: float) -> Arrays:
    """The same with every other floating-point number one step larger, the rest one step smaller."""
    return {name: _nudge(array, step) if array.dtype.kind in "fV" else array for name, array in sample.items()}


def _nudge(array: np.ndarray[Any, np.dtype[Any]], step: float) -> np.ndarray[Any, np.dtype[Any]]:
    signs = np.where(np.arange(array.size).reshape(array.shape) % 2, -step, step)
    return np.asarray(array.astype(np.float64) * (1 + signs), dtype=array.dtype)
