"""Labels: the class of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.datasets.errors import InvalidLabels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_build.datasets.ragged import Array, Indexes

__all__ = ["check_labels"]


def check_labels(
    labels: Array, *, where: str, rows: int, class_names: Sequence[str] | None, classes: int | None
) -> Indexes:
    """Labels as numbers of classes.

    Args:
        labels: [rows] or [rows, 1]: whole numbers of any dtype from 0 up, or names where `class_names` are known.
        where: what to call the source in an error.
        rows: how many rows the inputs have.
        class_names: in the order of the classes.
        classes: how many there are; by default as many as there are names.

    Returns:
        int64 [rows].

    Raises:
        InvalidLabels: there are not as many as rows, or one of them is not a class.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:  # noqa: PLR2004 - a column, as data frames give it
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) == rows:  # noqa: PLR2004 - a number for each row and class
        raise InvalidLabels(
            f"{where}: the labels are {list(labels.shape)}, wanted one number a row: "
            "of one-hot labels or probabilities, save labels.argmax(axis=1)"
        )
    if labels.shape != (rows,):
        raise InvalidLabels(f"{where}: the labels are {list(labels.shape)} for {rows} rows, wanted [{rows}]")
    numbers = _numbers(labels, where, class_names)
    _refuse(where, labels, numbers < 0, "and classes are counted from 0")
    classes = len(class_names) if classes is None and class_names is not None else classes
    if classes is not None:
        what = "classes" if class_names is None else "class names (--labels)"
        _refuse(where, labels, numbers >= classes, f"and there are {classes} {what}, 0 to {classes - 1}")
    return numbers


def _numbers(labels: Array, where: str, class_names: Sequence[str] | None) -> Indexes:
    kind = labels.dtype.kind
    if kind in "SU" or (kind == "O" and all(isinstance(label, (str, bytes)) for label in labels)):
        return _from_names(labels, where, class_names)
    if kind == "f":
        _refuse(where, labels, ~(np.isfinite(labels) & (labels == np.floor(labels))), "which is not a whole number")
        _refuse(where, labels, np.abs(labels) >= 2.0**53, "which is not a class")
    elif kind not in "iub":
        raise InvalidLabels(f"{where}: the labels are {labels.dtype}, wanted whole numbers from 0 up")
    if kind == "u":
        _refuse(where, labels, labels > np.iinfo(np.int64).max, "which is not a class")
    return labels.astype(np.int64)


def _from_names(labels: Array, where: str, class_names: Sequence[str] | None) -> Indexes:
    names = [label.decode(errors="replace") if isinstance(label, bytes) else str(label) for label in labels.tolist()]
    if class_names is None:
        raise InvalidLabels(
            f"{where}: the labels are names such as {names[0]!r}: give the file that lists them in the order of the "
            "model's classes with --labels, or save them as whole numbers"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    for row, name in enumerate(names):
        if name not in numbers:
            raise InvalidLabels(f"{where}: the label of row {row} is {name!r}, which is not among the class names")
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _refuse(where: str, labels: Array, wrong: np.ndarray[Any, np.dtype[np.bool_]], why: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidLabels(f"{where}: the label of row {row} is {labels[row]}, {why}")
