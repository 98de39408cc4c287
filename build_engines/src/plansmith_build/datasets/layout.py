"""What a row is: the shape that data must have for a model's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.errors import InvalidData
from plansmith_build.datasets.ragged import Array, ragged
from plansmith_build.datasets.raw_data import check_memory
from plansmith_build.reading.shapes import fits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from plansmith_build.reading.signatures import Signature
    from plansmith_client.tensors import TensorSpec

__all__ = ["Layout", "layout_of", "leading_rows_of", "listed"]


@dataclass(frozen=True)
class Layout:
    """What data for a model looks like.

    Attributes:
        inputs: the model's inputs that data can be given for.
        batched: whether the first dimension of every input holds rows. If not, whole inputs are stacked.
        with_missing_values: the inputs in which NaN stands for a missing value.
    """

    inputs: tuple[TensorSpec, ...]
    batched: bool
    with_missing_values: frozenset[str] = frozenset()

    @property
    def required(self) -> tuple[str, ...]:
        """The inputs that data must be given for."""
        return tuple(spec.name for spec in self.inputs if not spec.optional)

    def row_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """The shape of one row of an input; -1 is any size."""
        return spec.shape[1:] if self.batched else spec.shape

    def wanted(self, spec: TensorSpec) -> str:
        """The array that is wanted for an input, in words: `"FP32 [N, 8, 8]"`."""
        sizes = ["N", *("any" if size < 0 else str(size) for size in self.row_shape(spec))]
        return f"{spec.datatype} [{', '.join(sizes)}]"

    def grouped(self, spec: TensorSpec, array: Array) -> Array:
        """Rows for a model that takes no batches, stacked into samples.

        A sample has as many rows as the model takes at once: a fixed number, or one where it takes any. A single
        number, which such a model takes as a vector of one, may be given as that.
        """
        if self.batched or not array.ndim or not spec.shape or not fits(array.shape[1:], spec.shape[1:]):
            return array
        at_once = 1 if spec.shape[0] < 0 else spec.shape[0]
        in_common = leading_rows_of(self.inputs) == spec.shape[0] and spec.shape != (-1,)
        if at_once < 1 or not (in_common or spec.shape == (1,)) or len(array) % at_once:
            return array
        return array.reshape(-1, at_once, *array.shape[1:])

    def stack(self, spec: TensorSpec, parts: Sequence[tuple[str, Array]]) -> Array:
        """One array from many, each of them a row or several; see `ragged` where rows differ in shape.

        Args:
            spec: the input.
            parts: what each is called in an error, and the array.

        Raises:
            InvalidData: a part is neither, or they are too large together.
        """
        check_memory(
            sum(part.nbytes for _, part in parts),
            f"the {len(parts)} arrays for input {spec.name!r}",
            "give fewer of them, or one .npy file with all rows, which is read as it is needed",
        )
        shape = self.row_shape(spec)
        rows: list[Array] = []
        for name, part in parts:
            one = self.grouped(spec, part[np.newaxis])
            if fits(one.shape[1:], shape):
                rows.append(one)
            elif part.ndim == len(shape) + 1 and fits(part.shape[1:], shape):
                rows.append(part)
            else:
                raise InvalidData(
                    f"{name} is {part.dtype} {list(part.shape)}, and input {spec.name!r} wants {self.wanted(spec)}, "
                    "or one row of that"
                )
        if len({part.shape[1:] for part in rows}) > 1:
            return ragged(row for part in rows for row in part)
        return np.concatenate(rows)


def layout_of(signature: Signature, *, batched: bool | None) -> Layout:
    """The layout of data for a model.

    Args:
        signature: the model's.
        batched: whether the first dimension of every input is known to hold rows. None: it does where it is dynamic,
            or 1, in all inputs that must be given.
    """
    inputs = signature.inputs
    if batched is None:
        batched = leading_rows_of(inputs) in (-1, 1)
    if batched:
        first = leading_rows_of(inputs)
        # An optional input without rows keeps its default: one value for all rows is nothing that a batch can hold.
        inputs = tuple(spec for spec in inputs if not spec.optional or spec.shape[:1] == (first,))
    return Layout(inputs, batched, signature.with_missing_values)


def leading_rows_of(inputs: Iterable[TensorSpec]) -> int | None:
    """The first dimension that all inputs that must be given have in common, None if they have none."""
    required = [spec for spec in inputs if not spec.optional]
    if any(not spec.shape for spec in required):
        return None
    firsts = {spec.shape[0] for spec in required}
    return firsts.pop() if len(firsts) == 1 else None


def listed(layout: Layout) -> str:
    """The inputs and what is wanted for each, in words."""
    return ", ".join(
        f"{spec.name!r} {layout.wanted(spec)}{' (optional)' if spec.optional else ''}" for spec in layout.inputs
    )
