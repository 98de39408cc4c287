"""Rows for an estimator, and the same rows as the inputs of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.exporting.errors import UnsuitableModel

if TYPE_CHECKING:
    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["Table", "random_table", "table_from_example"]

_ONE_INPUT = "X"


@dataclass(frozen=True)
class Table:
    """Rows in two forms.

    Attributes:
        rows: what the estimator is called with: an array, or a data frame.
        inputs: the same values as float32 and strings, [N, columns] each.
    """

    rows: Any
    inputs: Arrays


def random_table(features: int, rows: int, seed: int) -> Table:
    """Normal numbers, float32 [rows, features]."""
    return _from_numbers(np.random.default_rng(seed).standard_normal((rows, features)))


def table_from_example(estimator: Any, example: Any) -> Table:
    """The rows of an example, numbers rounded to float32 in both forms.

    Args:
        estimator: names the columns of an array of objects, where it was fitted with names.
        example: an array [N, features] of numbers, strings or objects, or a data frame.

    Raises:
        UnsuitableModel: it is neither, or a column is neither of numbers nor of strings.
    """
    if hasattr(example, "columns") and hasattr(example, "iloc"):
        return _from_data_frame(example)
    array = np.asarray(example)
    if array.ndim != 2 or not len(array):  # noqa: PLR2004 - rows and features
        raise UnsuitableModel(f"the example is {list(array.shape)}, wanted rows and features: [N, features]")
    if array.dtype.kind in "biuf":
        return _from_numbers(array)
    if array.dtype.kind == "U":
        return Table(array, {_ONE_INPUT: array.astype(object)})
    if array.dtype.kind != "O":
        raise UnsuitableModel(f"the example is {array.dtype}, wanted numbers, strings or objects")
    given = getattr(estimator, "feature_names_in_", None)
    names = list(given) if given is not None else [f"x{number}" for number in range(array.shape[1])]
    columns = {str(name): _column(str(name), array[:, number]) for number, name in enumerate(names)}
    rows = np.empty(array.shape, dtype=object)
    for number, column in enumerate(columns.values()):
        rows[:, number] = column
    return Table(rows, {name: column.reshape(-1, 1) for name, column in columns.items()})


def _from_numbers(values: np.ndarray[Any, np.dtype[Any]]) -> Table:
    # Some estimators take only the type that they were fitted on, which is float64 nearly always.
    rounded = values.astype(np.float32)
    return Table(rounded.astype(np.float64), {_ONE_INPUT: rounded})


def _from_data_frame(frame: Any) -> Table:
    if not len(frame):
        raise UnsuitableModel("the example has no rows: give at least one")
    rows = frame.copy()
    inputs = {}
    for name in frame.columns:
        column = _column(str(name), np.asarray(frame[name]))
        if column.dtype.kind == "f":
            rows[name] = column.astype(np.float64)
        inputs[str(name)] = column.reshape(-1, 1)
    return Table(rows, inputs)


def _column(name: str, values: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    elements = values.tolist()
    if all(isinstance(element, str) for element in elements):
        column = np.empty(len(elements), dtype=object)
        column[:] = elements
        return column
    try:
        return values.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UnsuitableModel(f"column {name!r} of the example is neither of numbers nor of strings alone") from error
