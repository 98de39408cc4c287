"""Rows of several shapes: pictures of other sizes, texts of other lengths.

Where rows differ in shape, they are a one-dimensional array of objects, each of them the array of one row, so that rows
are counted and chosen as those of every other array are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Array", "Indexes", "is_ragged", "ragged", "row_shapes", "stacked"]

Array = np.ndarray[Any, np.dtype[Any]]
Indexes = np.ndarray[Any, np.dtype[np.int64]]


def ragged(rows: Iterable[Array]) -> Array:
    """An array of rows, whatever the shape of each."""
    arrays = list(rows)
    whole = np.empty(len(arrays), dtype=object)
    for number, row in enumerate(arrays):
        whole[number] = row
    return whole


def is_ragged(array: Array) -> bool:
    """Whether the elements are rows of their own; text has elements of type bytes or str."""
    return array.dtype == object and array.ndim == 1 and len(array) > 0 and isinstance(array[0], np.ndarray)


def row_shapes(array: Array) -> list[tuple[int, ...]]:
    """The shape of each row."""
    return [row.shape for row in array] if is_ragged(array) else [array.shape[1:]] * len(array)


def stacked(array: Array, chosen: slice | Indexes) -> Array:
    """Rows of one shape as one array [rows, ...]."""
    part = array[chosen]
    return np.stack(list(part)) if is_ragged(part) else part
