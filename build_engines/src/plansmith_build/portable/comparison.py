"""How far two sets of answers differ, output by output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["TOLERANCES", "OutputComparison", "compare", "identical", "worst"]

TOLERANCES = {"FP64": 1e-6, "FP32": 1e-3, "FP16": 1e-2, "BF16": 5e-2}
"""The greatest relative error allowed, by datatype; everything else must be equal."""

# What is smaller than this is rounding where numbers around 1 were added on the way, as before a sigmoid. It hides no
# more than a quarter of what there is, so answers that are small themselves are compared, too.
_ABSOLUTE = {"FP64": 1e-12}
_ABSOLUTE_FLOOR = 1e-6
_LARGEST_SHARE = 0.25


@dataclass(frozen=True)
class OutputComparison:
    """One output compared with its reference.

    Attributes:
        name: the output.
        datatype: the protocol's datatype of the reference.
        max_absolute_error: the greatest difference of two elements; infinite where the shapes differ.
        max_relative_error: the same, relative to the greatest magnitude in the reference. For whole numbers, truth
            values and strings, the fraction of the elements that differ.
        tolerance: the greatest relative error allowed.
        values_compared: False where the reference itself differs from run to run, so that only shapes could be.
    """

    name: str
    datatype: str
    max_absolute_error: float
    max_relative_error: float
    tolerance: float
    values_compared: bool = True

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; an error that is not a number never is."""
        return self.max_relative_error <= self.tolerance

    def complaint(self) -> str:
        """What is wrong with it, for one that did not pass."""
        if self.max_absolute_error == float("inf"):
            return (
                f"output {self.name!r} differs from the original's in shape or type, or is NaN or infinite where the "
                "original has a number"
            )
        return (
            f"output {self.name!r} is off by {self.max_relative_error:.2g} relative to the original; "
            f"{self.tolerance:g} is allowed"
        )


def compare(
    reference: Mapping[str, np.ndarray[Any, np.dtype[Any]]],
    given: Mapping[str, np.ndarray[Any, np.dtype[Any]]],
    *,
    ignore: frozenset[str] = frozenset(),
    noise: Mapping[str, float] | None = None,
) -> tuple[OutputComparison, ...]:
    """Compare each output with its reference.

    Infinities and not-a-numbers agree where they stand at the same places.

    Args:
        reference: arrays by output name.
        given: arrays by output name.
        ignore: outputs whose values are random; their shapes and dtypes are compared.
        noise: the least relative error to allow, by output, where the reference is only as exact as that.
    """
    return tuple(
        _compare(name, array, given.get(name), values=name not in ignore, noise=(noise or {}).get(name, 0.0))
        for name, array in reference.items()
    )


def worst(comparisons: tuple[OutputComparison, ...]) -> OutputComparison:
    """The comparison with the largest error, one that did not pass first."""
    return max(comparisons, key=lambda c: (not c.passed, c.max_relative_error))


def _compare(
    name: str,
    reference: np.ndarray[Any, np.dtype[Any]],
    given: np.ndarray[Any, np.dtype[Any]] | None,
    *,
    values: bool,
    noise: float,
) -> OutputComparison:
    datatype = datatype_from_numpy(reference.dtype)
    tolerance = max(TOLERANCES.get(datatype, 0.0), noise)
    if datatype in TOLERANCES and (scale := _scale(reference)):
        tolerance = max(tolerance, min(_ABSOLUTE.get(datatype, _ABSOLUTE_FLOOR) / scale, _LARGEST_SHARE))
    absolute = relative = float("inf")
    if given is not None and given.shape == reference.shape and given.dtype == reference.dtype:
        absolute, relative = _errors(reference, given, floating=datatype in TOLERANCES) if values else (0.0, 0.0)
    return OutputComparison(name, datatype, absolute, relative, tolerance, values_compared=values)


def _errors(
    reference: np.ndarray[Any, np.dtype[Any]], given: np.ndarray[Any, np.dtype[Any]], *, floating: bool
) -> tuple[float, float]:
    if not reference.size:
        return 0.0, 0.0
    if not floating:
        different = float(np.mean(reference != given))
        numbers = reference.dtype.kind in "iu" and different
        absolute = (
            float(np.abs(reference.astype(np.float64) - given.astype(np.float64)).max()) if numbers else different
        )
        return absolute, different
    wide, other = reference.astype(np.float64), given.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
        return float("inf"), float("inf")
    wide, other = wide[finite], other[finite]
    if not wide.size:
        return 0.0, 0.0
    absolute = float(np.abs(wide - other).max())
    if not np.isfinite(absolute):
        return float("inf"), float("inf")
    scale = _scale(reference)
    return absolute, absolute / scale if scale else absolute


def _scale(array: np.ndarray[Any, np.dtype[Any]]) -> float:
    """The greatest finite magnitude."""
    wide = np.abs(array.astype(np.float64))
    return float(wide[np.isfinite(wide)].max(initial=0.0))


def identical(one: np.ndarray[Any, np.dtype[Any]], other: np.ndarray[Any, np.dtype[Any]]) -> bool:
    """Whether two arrays have the same shape and values, NaN being equal to NaN."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fcV":
        return bool(np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True))
    return bool(np.array_equal(one, other))
