"""Some of many rows."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["evenly_by_label"]


def evenly_by_label(
    rows: int, labels: np.ndarray[Any, np.dtype[np.int64]] | None, limit: int, seed: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The indexes of `limit` rows in ascending order: random ones, from each class as evenly as it goes.

    Args:
        rows: how many there are.
        labels: the class of each, int64 [rows], or None.
        limit: how many to choose, at most `rows`.
        seed: the same seed chooses the same.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    if labels is not None:
        # The n-th row of every class before the n+1-th of any.
        seen: dict[int, int] = {}
        turns = np.empty(rows, dtype=np.int64)
        for position, row in enumerate(order):
            label = int(labels[row])
            turns[position] = seen.get(label, 0)
            seen[label] = turns[position] + 1
        order = order[np.argsort(turns, kind="stable")]
    return np.sort(order[:limit]).astype(np.int64)
