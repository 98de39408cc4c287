"""Random inputs that fit a graph: a size for each dimension that may vary, and values for each tensor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.portable.batch_obstacles import BatchAxis, obstacle_in_inputs
from plansmith_client.sampling import random_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.reading.signatures import Signature
    from plansmith_build.reading.value_kinds import IntegerRange
    from plansmith_client.tensors import TensorSpec

__all__ = ["InputKind", "Values", "input_kinds", "leading_rows", "random_sample"]

# Sizes for dimensions that vary, tried in turn: a sequence, images, then others.
_SIZES: tuple[int, ...] = (16, 64, 224, 1, 2, 4, 8, 32, 128, 256)
# Sound has more; tried where an input has no more than one such dimension, so that memory does not matter.
_LONG_SIZES: tuple[int, ...] = (512, 1024, 4096, 16000)
# Whole numbers are often indexes, valid where they stay below the number of elements.
_INTEGERS_BELOW = (10, 2, 1)
_LARGEST_WHOLE = 64


class Values(Enum):
    """What floating-point numbers and text are like.

    NORMAL: numbers of a standard normal distribution, short words. POSITIVE: their magnitudes, for logarithms and
    roots. WHOLE: whole numbers from 1 in numbers and vectors, which may be sizes and scales, and text that is a number.
    """

    NORMAL = auto()
    POSITIVE = auto()
    WHOLE = auto()


@dataclass(frozen=True)
class InputKind:
    """A kind of random inputs.

    Attributes:
        rows: the size of the first dimension of every input where that varies; None where it holds no rows and is a
            dimension like the others.
        size: the size of every other dimension that varies.
        integers_below: what whole numbers stay below, so that they are valid indexes.
        ranges: the range of whole numbers for single inputs, instead.
        values: what floating-point numbers and text are like.
    """

    rows: int | None
    size: int
    integers_below: int
    ranges: Mapping[str, IntegerRange]
    values: Values = Values.NORMAL


def leading_rows(signature: Signature, axis: BatchAxis = BatchAxis.AUTO) -> int | None:
    """How many rows each input holds, by its first dimension: -1 where that varies, None where it holds none."""
    return None if obstacle_in_inputs(signature, axis) else signature.inputs[0].shape[0]


def input_kinds(signature: Signature, rows: int | None, ranges: Mapping[str, IntegerRange]) -> Iterator[InputKind]:
    """What to try, in turn: as rows where the inputs may hold some, then as inputs of any size."""
    varies = any(-1 in spec.shape for spec in signature.inputs)
    sizes = _SIZES if varies else _SIZES[:1]
    integers = any(spec.numpy_dtype.kind in "iu" for spec in signature.inputs)
    bounds: list[tuple[int, Mapping[str, IntegerRange]]] = [
        (below, {}) for below in (_INTEGERS_BELOW if integers else _INTEGERS_BELOW[:1])
    ]
    if ranges:
        bounds.insert(0, (_INTEGERS_BELOW[0], ranges))
    longer = _LONG_SIZES if varies and all(spec.shape.count(-1) <= 1 for spec in signature.inputs) else ()
    for values in Values:
        if rows == -1:
            for size, (below, known) in itertools.product(sizes, bounds):
                yield InputKind(1, size, below, known, values)
        for size, (below, known) in itertools.product((*sizes, *longer), bounds):
            yield InputKind(None, size, below, known, values)


def random_sample(
    signature: Signature, kind: InputKind, *, with_optional: bool, rng: np.random.Generator, magnitude: float = 1.0
) -> Arrays:
    """Arrays for every input; floating-point numbers have the standard deviation `magnitude`."""
    rows = kind.rows
    row_symbols = {symbols[0] for symbols in signature.symbols.values() if rows is not None and symbols} - {""}
    sample = {}
    for spec in signature.inputs:
        if spec.optional and not with_optional:
            continue
        shape = tuple(
            dimension
            if dimension >= 0
            else 0
            if (spec.name, axis) in signature.empty
            else rows
            if rows is not None and (axis == 0 or symbol in row_symbols)
            else kind.size
            for axis, (dimension, symbol) in enumerate(zip(spec.shape, signature.symbols[spec.name], strict=True))
        )
        sample[spec.name] = _values(replace(spec, shape=shape), kind, rng, magnitude)
    return sample


def _values(
    spec: TensorSpec, kind: InputKind, rng: np.random.Generator, magnitude: float
) -> np.ndarray[Any, np.dtype[Any]]:
    array = random_array(spec, batch=None, rng=rng)
    if array.dtype.kind in "iu":
        known = kind.ranges.get(spec.name)
        if known is None:
            # Not in place: numpy casts an array without dimensions by its value.
            return np.asarray(array % array.dtype.type(kind.integers_below), dtype=array.dtype)
        below = kind.size + 1 if known.below is None else known.below
        largest = min(max(below, known.low + 1), np.iinfo(array.dtype).max)
        return np.asarray(rng.integers(known.low, largest, size=array.shape), dtype=array.dtype)
    if kind.values is Values.WHOLE and len(spec.shape) - (kind.rows is not None) <= 1:
        numbers = rng.integers(1, _LARGEST_WHOLE, size=array.shape, endpoint=True)
        if spec.datatype == "BYTES":
            return np.asarray([str(number).encode() for number in numbers.reshape(-1)], object).reshape(array.shape)
        if spec.datatype != "BOOL":
            return np.asarray(numbers, dtype=array.dtype)
    if kind.values is Values.POSITIVE and spec.datatype not in {"BYTES", "BOOL"}:
        array = np.abs(array)
    if magnitude != 1.0 and spec.datatype in {"FP16", "FP32", "FP64"}:
        array = np.asarray(array * magnitude, dtype=array.dtype)
    return np.asarray(array)
