"""Random inputs that fit a graph: a size for each dimension that may vary, and values for each tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from plansmith_client.sampling import random_array

if TYPE_CHECKING:
    import numpy as np

    from plansmith_build.sessions import Arrays
    from plansmith_build.signatures import Signature

__all__ = ["leading_rows", "random_sample"]


def leading_rows(signature: Signature) -> int | None:
    """How many rows each input holds, by its first dimension: -1 where that varies, None where they do not agree."""
    if any(spec.optional or not spec.shape for spec in signature.inputs):
        return None
    firsts = {spec.shape[0] for spec in signature.inputs}
    return firsts.pop() if len(firsts) == 1 else None


def random_sample(
    signature: Signature, *, rows: int, size: int, with_optional: bool, integers_below: int, rng: np.random.Generator
) -> Arrays:
    """Arrays for every input.

    Args:
        signature: what the graph takes.
        rows: the size of the first dimension where it varies and `leading_rows` says that it holds the rows.
        size: the size of every other dimension that varies.
        with_optional: whether inputs that have a default get an array as well.
        integers_below: what whole numbers stay below, so that they are valid indexes.
        rng: where the values come from.
    """
    varies = leading_rows(signature) == -1
    batch_symbols = {signature.symbols[spec.name][0] for spec in signature.inputs if varies} - {""}
    sample = {}
    for spec in signature.inputs:
        if spec.optional and not with_optional:
            continue
        shape = tuple(
            dimension if dimension >= 0 else rows if symbol in batch_symbols or (varies and axis == 0) else size
            for axis, (dimension, symbol) in enumerate(zip(spec.shape, signature.symbols[spec.name], strict=True))
        )
        array = random_array(replace(spec, shape=shape), batch=None, rng=rng)
        if array.dtype.kind in "iu":
            array %= integers_below
        sample[spec.name] = array
    return sample
