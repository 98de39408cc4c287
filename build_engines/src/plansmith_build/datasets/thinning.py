"""Some of many rows."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["random_rows"]


def random_rows(rows: int, limit: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The indexes of `limit` different rows in ascending order, each row as likely as any other.

    Classes keep their proportions, so that what is measured on the sample is what the whole data would say.

    Args:
        rows: how many there are.
        limit: how many to choose, at most `rows`.
        seed: the same seed chooses the same.
    """
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit]).astype(np.int64)
