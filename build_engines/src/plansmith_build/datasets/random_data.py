"""Random rows: they prove that a model runs, and say nothing about its accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.errors import InvalidData
from plansmith_build.datasets.raw_data import RawData
from plansmith_build.portable.sampling import InputKind, leading_rows, random_sample

if TYPE_CHECKING:
    from plansmith_build.datasets.layout import Layout
    from plansmith_build.reading.signatures import Signature

__all__ = ["RANDOM_ROWS", "random_data", "rows_from_text"]

RANDOM_ROWS = 64
"""How many rows the source `random` has."""

# Of each dimension that varies, but for that of the rows; and what whole numbers, which may be indexes, stay below.
_FREE_SIZE = 16
_INTEGERS_BELOW = 10


def rows_from_text(source: str) -> int | None:
    """How many random rows are asked for by `random` or `random:N`, None where something else is.

    Raises:
        InvalidData: N is not a number from 1 up.
    """
    word, separator, count = source.partition(":")
    if word != "random":
        return None
    if not separator:
        return RANDOM_ROWS
    if not count.isdecimal() or int(count) < 1:
        raise InvalidData(
            f"{source!r} is not a valid number of random rows: write random, or random:N such as random:256"
        )
    return int(count)


def random_data(signature: Signature, layout: Layout, *, rows: int, seed: int) -> RawData:
    """Rows of plain random values, as `plansmith_client.sampling` makes them; optional inputs keep their defaults."""
    rng = np.random.default_rng(seed)
    names = set(layout.required)
    stacked = {spec.name: spec for spec in layout.inputs if spec.name in names}
    one = 1 if leading_rows(signature) == -1 else None
    kind = InputKind(one, _FREE_SIZE, _INTEGERS_BELOW, {})
    samples = [random_sample(signature, kind, with_optional=False, rng=rng) for _ in range(rows)]
    arrays = {
        name: (np.concatenate if layout.batched else np.stack)([sample[name] for sample in samples])[:rows]
        for name in stacked
    }
    return RawData(arrays, None, None, "random", "random data")
