"""A model's inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_server.backends.rows import MADE_UP_NAME, NO_NAME, UNKNOWN_ROWS, Rows

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Dimension", "Signature", "TensorInfo"]

Dimension = int | str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: of the tensor.
        data_type: such as "TYPE_FP32".
        shape: with the batch dimension; -1 or a symbol's name for any size; None where not even the rank is known.
    """

    name: str
    data_type: str
    shape: tuple[Dimension, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        inputs: those that every run needs.
        optional_inputs: those with a default value (initializers that are inputs too).
        outputs: those that are tensors.
        selects: the first operator whose number of rows depends on values, or "".
        rows: what shape inference says about the rows of a batch, where names do not settle it.
        fixed_batch: whether the inputs say that their first dimension, fixed or not, is the batch.
    """

    inputs: tuple[TensorInfo, ...]
    optional_inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    selects: str = ""
    rows: Rows = UNKNOWN_ROWS
    fixed_batch: bool = False

    @property
    def first_dimensions_are_dynamic(self) -> bool:
        """Whether the first dimension of every input and output can have any size."""
        return all(tensor.shape and not _is_fixed(tensor.shape[0]) for tensor in (*self.inputs, *self.outputs))

    @property
    def is_batched(self) -> bool:
        """Whether the first dimension of everything is one and the same: the rows of a batch.

        The graph decides; where it cannot tell, the names of dimensions do. A dimension with another name in another
        input, or with a name found elsewhere too (a square matrix of distances), counts something else: such requests
        cannot be put one after the other.
        """
        if not self.inputs or self.rows.kept is False or not (self.first_dimensions_are_dynamic or self.fixed_batch):
            return False
        if len(self.inputs) > 1 and not self.rows.shared and _common_name(self.inputs) is None:
            return False
        shapes = [tensor.shape or () for tensor in (*self.inputs, *self.outputs)]
        first = {shape[0] for shape in shapes if _is_named(shape[0])}
        if first.intersection(dim for shape in shapes for dim in shape[1:]):
            return False
        return (self.rows.kept is True or len(first) <= 1) and not self.obstacle_to_splitting

    @property
    def is_named_throughout(self) -> bool:
        """Whether the first dimension of everything has one name, which no other dimension has."""
        tensors = (*self.inputs, *self.outputs)
        name = _common_name(tensors)
        return name is not None and not any(name in (tensor.shape or ())[1:] for tensor in tensors)

    @property
    def obstacle_to_splitting(self) -> str:
        """Why the answer to several requests at once cannot be split among them, or an empty string.

        A matching number of rows proves nothing: two requests, one with two detections and the other without any, also
        give two rows.
        """
        if self.rows.kept and self.rows.shared:
            return ""
        rows = {tensor.shape[0] for tensor in self.inputs if tensor.shape and isinstance(tensor.shape[0], str)}
        named = {name for name in rows if not MADE_UP_NAME.fullmatch(str(name))}
        for tensor in self.outputs:
            first = tensor.shape[0] if tensor.shape else -1
            if first in rows or _is_fixed(first):
                continue
            if self.selects:
                return f"{self.selects} may decide how many rows output {tensor.name!r} has"
            if named and isinstance(first, str) and not MADE_UP_NAME.fullmatch(first):
                return f"output {tensor.name!r} has {first!r} rows, and the inputs have {min(map(str, named))!r}"
        return ""


def _common_name(tensors: Iterable[TensorInfo]) -> Dimension | None:
    """The name that the first dimension of all `tensors` has; None unless there is one."""
    first = {tensor.shape[0] if tensor.shape else -1 for tensor in tensors}
    name = first.pop()
    return None if first or not _is_named(name) else name


def _is_named(dimension: Dimension) -> bool:
    return isinstance(dimension, str) and NO_NAME.fullmatch(dimension) is None


def _is_fixed(dimension: Dimension) -> bool:
    return isinstance(dimension, int) and dimension >= 0
