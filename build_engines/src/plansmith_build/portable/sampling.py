"""Random inputs that fit a graph: a size for each dimension that may vary, and values for each tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.portable.batch_obstacles import BatchAxis, obstacle_in_inputs
from plansmith_client.sampling import random_array

if TYPE_CHECKING:
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.reading.signatures import Signature

__all__ = ["leading_rows", "random_sample"]


def leading_rows(signature: Signature, axis: BatchAxis = BatchAxis.AUTO) -> int | None:
    """How many rows each input holds, by its first dimension: -1 where that varies, None where it holds none."""
    return None if obstacle_in_inputs(signature, axis) else signature.inputs[0].shape[0]


def random_sample(
    signature: Signature,
    *,
    rows: int | None,
    size: int,
    with_optional: bool,
    integers_below: int,
    rng: np.random.Generator,
    magnitude: float = 1.0,
) -> Arrays:
    """Arrays for every input.

    Args:
        signature: what the graph takes.
        rows: the size of the first dimension of every input where that varies; None where it holds no rows and is a
            dimension like the others.
        size: the size of every other dimension that varies.
        with_optional: whether inputs that have a default get an array as well.
        integers_below: what whole numbers stay below, so that they are valid indexes.
        rng: where the values come from.
        magnitude: what the standard deviation of floating-point numbers is.
    """
    row_symbols = {symbols[0] for symbols in signature.symbols.values() if rows is not None and symbols} - {""}
    sample = {}
    for spec in signature.inputs:
        if spec.optional and not with_optional:
            continue
        shape = tuple(
            dimension if dimension >= 0 else rows if rows is not None and (axis == 0 or symbol in row_symbols) else size
            for axis, (dimension, symbol) in enumerate(zip(spec.shape, signature.symbols[spec.name], strict=True))
        )
        array = random_array(replace(spec, shape=shape), batch=None, rng=rng)
        if array.dtype.kind in "iu":
            # Not in place: numpy casts an array without dimensions by its value.
            array = np.asarray(array % array.dtype.type(integers_below), dtype=array.dtype)
        elif magnitude != 1.0 and spec.datatype in {"FP16", "FP32", "FP64"}:
            array = np.asarray(array * magnitude, dtype=array.dtype)
        sample[spec.name] = array
    return sample
