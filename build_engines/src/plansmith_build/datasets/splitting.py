"""Calibration and validation data, kept apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.datasets.errors import TooFewRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.datasets.dataset import Dataset

__all__ = ["split", "without_rows_of"]


def split(dataset: Dataset, *, fraction: float = 0.5, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split a dataset into two that share no row.

    Rows that are equal in every input always go to the same side, so that nothing is validated with what it was
    calibrated on. Each class is split in the same proportion, to within one row.

    Args:
        dataset: at least two different rows.
        fraction: the share of the rows that is for calibration, between 0 and 1, both excluded.
        seed: the same seed gives the same parts.

    Returns:
        The calibration part and the validation part, neither of them empty, each in the order of the whole.

    Raises:
        TooFewRows: there are fewer than two different rows.
        ValueError: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction of {fraction} is not between 0 and 1")
    groups = _equal_rows(dataset)
    if len(groups) < 2:  # noqa: PLR2004 - one for each side
        rows = f"{len(dataset)} rows that are all the same" if len(dataset) > 1 else "one row"
        raise TooFewRows(
            f"{dataset.source} has {rows}, and calibration and validation data are kept apart: "
            "give at least two different rows, a few hundred for a good calibration"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    if dataset.labels is not None:
        labels = dataset.labels
        # Class after class, so that the proportion below is kept within each.
        order = np.array(sorted(order, key=lambda index: labels[groups[index][0]]), dtype=np.int64)

    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    calibration_rows = rows_so_far = 0
    # Starting between two steps instead of at one keeps classes of a single row from all going to one side.
    debt = rng.random() * min(fraction, 1 - fraction)
    for index in order:
        group = groups[index]
        rows_so_far += len(group)
        wanted = fraction * rows_so_far + debt
        chosen = calibration_rows + len(group) / 2 <= wanted
        sides[not chosen].append(group)
        calibration_rows += len(group) if chosen else 0
    for empty, full in (sides, sides[::-1]):
        if not empty:
            empty.append(full.pop())
    calibration, validation = (dataset.take(sorted(row for group in side for row in group)) for side in sides)
    return calibration, validation


def without_rows_of(dataset: Dataset, other: Dataset) -> Dataset:
    """The rows that are not in another dataset: validation data that was given, without what calibrates.

    Args:
        dataset: the rows to choose from.
        other: rows of the same inputs.

    Returns:
        The same dataset where it has none of them.

    Raises:
        TooFewRows: none is left.
    """
    known = set(_digests(other))
    kept = [row for row, digest in enumerate(_digests(dataset)) if digest not in known]
    if not kept:
        raise TooFewRows(
            f"every row of {dataset.source} is in {other.source} too, and calibration and validation data are kept "
            "apart: give rows to validate with that nothing is calibrated on"
        )
    return dataset if len(kept) == len(dataset) else dataset.take(kept)


def _equal_rows(dataset: Dataset) -> list[list[int]]:
    """The indexes of all rows, those of equal rows together."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(_digests(dataset)):
        groups.setdefault(digest, []).append(row)
    return list(groups.values())


def _digests(dataset: Dataset) -> Iterator[bytes]:
    """What tells each row from others: the same for rows that are equal in every input."""
    for row in range(len(dataset)):
        digest = hashlib.sha256()
        for _, array in sorted(dataset.inputs.items()):
            # Rows may differ in shape alone.
            digest.update(f"{np.shape(array[row])}".encode())
            digest.update(_bytes_of(array[row]))
        yield digest.digest()


def _bytes_of(row: Any) -> bytes:
    array = np.asarray(row)
    if array.dtype == object:
        # The length of each keeps ["ab", "c"] and ["a", "bc"] apart.
        return b"".join(b"%d:%b" % (len(element), element) for element in array.reshape(-1))
    return array.tobytes()
