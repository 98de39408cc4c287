"""What candidates are timed with: rows of the data, each size as often as the data has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.ragged import is_ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_build.datasets import Dataset
    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["Workload"]

# Large enough for an engine to be fast, small enough to need little memory.
MOST_ROWS = 8
# Where rows differ in shape: the middle one of each of so many equal parts of the data.
SIZES = 4


@dataclass(frozen=True)
class Workload:
    """Requests that are sent in turn.

    Attributes:
        requests: one where all rows have one shape. Else the middle size of each quarter of the data by size, with as
            many rows in all, but one each at least.
        rows: how many rows each request has.
        middle: the one request that there would be if all rows had the middle size of the data.
        is_batched: whether the rows of `middle` are requests that a server may join.
        sizes: those of the requests, as words behind "so many rows a run"; empty where all rows have one shape.
    """

    requests: tuple[Arrays, ...] = field(repr=False)
    rows: int
    middle: Arrays = field(repr=False)
    is_batched: bool
    sizes: str = ""

    @classmethod
    def of(cls, data: Dataset, max_batch_size: int) -> Workload:
        """From data, whose rows are repeated where there are fewer; 0 is for a model without batches."""
        together = min(MOST_ROWS, max(1, max_batch_size)) if data.batched else 1
        (middle,) = _requests(data, together, sizes=1)
        requests = _requests(data, together, sizes=SIZES)
        rows = max(1, together // len(requests))
        return cls(requests, rows, middle, together > 1, _in_words(data, requests))

    @property
    def effort(self) -> float:
        """How many times as many rows all requests have as `middle`."""
        usual = len(next(iter(self.middle.values()))) if self.is_batched else 1
        return self.rows * len(self.requests) / usual


def _requests(data: Dataset, rows: int, *, sizes: int) -> tuple[Arrays, ...]:
    groups = data.alike()
    middles = (np.arange(sizes) + 0.5) * len(data) / sizes
    places = np.searchsorted(np.cumsum([len(group) for group in groups]), middles, side="right")
    if len(set(places)) == 1:
        places = places[:1]
    each = max(1, rows // len(places))
    return tuple(data.take(np.resize(groups[place], each)).batches(each)[0] for place in places)


def _in_words(data: Dataset, requests: Sequence[Arrays]) -> str:
    inputs: dict[str, list[str]] = {}
    for name, array in data.inputs.items():
        if is_ragged(array):
            shapes = [list(request[name].shape[int(data.batched) :]) for request in requests]
            inputs.setdefault(", ".join(map(str, shapes)), []).append(name)
    if not inputs:
        return ""
    which = "middle size of each quarter of the data in turn" if len(requests) > 1 else "size that most of the data has"
    said = "; ".join(f"{' and '.join(names)} {shapes}" for shapes, names in inputs.items())
    return f" at the {which} ({said})"
