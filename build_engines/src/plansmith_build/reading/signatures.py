"""A graph's inputs and outputs as tensor specifications, or the reason why Triton cannot serve them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.value_kinds import inputs_with_missing_values
from plansmith_client.errors import InvalidInput
from plansmith_client.tensors import TensorSpec, datatype_from_numpy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Signature", "complete_output_shapes", "correct_output_shapes", "signature_of"]


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives.

    Attributes:
        inputs: in the graph's order; `optional` where the graph has a default for it.
        outputs: in the graph's order.
        symbols: for each input by name, the name of each dimension, "" where it has a number or no name. Dimensions
            of one name have one size.
        with_missing_values: the inputs in which NaN stands for a missing value.
        empty: the dimensions of inputs that are declared as 0, by input and axis; no configuration can say so, and
            their specifications have -1.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, tuple[str, ...]]
    with_missing_values: frozenset[str] = frozenset()
    empty: frozenset[tuple[str, int]] = frozenset()


def signature_of(model: onnx.ModelProto, *, weights: Collection[str] = ()) -> Signature:
    """The inputs and outputs of a graph; initializers that are listed as inputs are optional inputs.

    Args:
        model: the graph.
        weights: listed inputs that are none.

    Raises:
        InvalidModel: one of them is not a tensor, has a type that Triton does not know or a shape that it cannot
            declare, two outputs have one name, or there is no input at all.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    listed = [value for value in model.graph.input if value.name not in weights]
    inputs = tuple(_spec(value, "input", optional=value.name in defaults) for value in listed)
    if not any(not spec.optional for spec in inputs):
        raise InvalidModel("the model has no input that a request must give, so there is nothing to ask it")
    outputs = tuple(_spec(value, "output", optional=False) for value in model.graph.output)
    twice = [name for name, count in Counter(spec.name for spec in outputs).items() if count > 1]
    if twice:
        raise InvalidModel(f"output {twice[0]!r} is declared more than once: remove all but one of them")
    symbols = {
        value.name: tuple(dimension.dim_param for dimension in value.type.tensor_type.shape.dim) for value in listed
    }
    empty = frozenset(
        (value.name, axis)
        for value in listed
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim)
        if dimension.HasField("dim_value") and dimension.dim_value == 0
    )
    return Signature(inputs, outputs, symbols, inputs_with_missing_values(model), empty)


def complete_output_shapes(model: onnx.ModelProto, ranks: Mapping[str, int]) -> tuple[str, ...]:
    """Declare outputs without a shape by the number of dimensions that they were seen to have, in place.

    Returns:
        The names of the outputs that were completed.
    """
    completed = []
    for value in model.graph.output:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
            for _ in range(ranks[value.name]):
                value.type.tensor_type.shape.dim.add()
            completed.append(value.name)
    return tuple(completed)


def correct_output_shapes(model: onnx.ModelProto, seen: Mapping[str, Collection[tuple[int, ...]]]) -> tuple[str, ...]:
    """Declare outputs as they were seen to be where the file declares something else, in place.

    Returns:
        A sentence for each output that was corrected, with both shapes.
    """
    corrected = []
    for value in model.graph.output:
        shape = value.type.tensor_type.shape
        shapes = seen.get(value.name, ())
        if not value.type.tensor_type.HasField("shape") or not shapes:
            continue
        before = _dimensions(shape)
        if {len(found) for found in shapes} != {len(before)}:
            rank = len(next(iter(shapes)))
            del shape.dim[:]
            for _ in range(rank):
                shape.dim.add()
        else:
            for axis, dimension in enumerate(shape.dim):
                if dimension.dim_value > 0 and any(found[axis] != dimension.dim_value for found in shapes):
                    dimension.Clear()
                elif dimension.HasField("dim_value") and dimension.dim_value <= 0:
                    # No configuration can say a length of 0: it is left open in the graph as well.
                    dimension.Clear()
        if _dimensions(shape) != before:
            corrected.append(
                f"declared output {value.name!r} as {list(_dimensions(shape))}, as it was seen to be, instead of "
                f"{list(before)}"
            )
    return tuple(corrected)


def _dimensions(shape: onnx.TensorShapeProto) -> tuple[int, ...]:
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value > 0 else -1
        for dimension in shape.dim
    )


def _spec(value: onnx.ValueInfoProto, role: str, *, optional: bool) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InvalidModel(
            f"{role} {value.name!r} is {_kind(value.type)}, and Triton serves tensors only: " + _way_out(value.type)
        )
    tensor = value.type.tensor_type
    if not value.name:
        raise InvalidModel(f"an {role} has no name: export the model again with names")
    try:
        datatype = datatype_from_numpy(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, InvalidInput):
        known = tensor.elem_type in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(tensor.elem_type) if known else str(tensor.elem_type)
        raise InvalidModel(
            f"{role} {value.name!r} has the data type {name}, which Triton does not serve: "
            "cast it to another type in the model"
        ) from None
    if not tensor.HasField("shape"):
        if role == "output":
            # Told by the first run: see complete_output_shapes.
            return TensorSpec(value.name, datatype, (), optional=optional)
        raise InvalidModel(
            f"input {value.name!r} does not say how many dimensions it has: "
            "declare its shape when the model is exported, -1 or a name for each dimension that varies"
        )
    return TensorSpec(value.name, datatype, _dimensions(tensor.shape), optional=optional)


def _kind(value_type: onnx.TypeProto) -> str:
    match value_type.WhichOneof("value"):
        case "sequence_type":
            inner = value_type.sequence_type.elem_type
            return f"a sequence of {_kind(inner).removeprefix('a ')}s"
        case "map_type":
            return "a map"
        case "optional_type":
            return "an optional value"
        case "sparse_tensor_type":
            return "a sparse tensor"
        case "tensor_type":
            return "a tensor"
        case _:
            return "of no declared type"


def _way_out(value_type: onnx.TypeProto) -> str:
    if value_type.WhichOneof("value") == "sequence_type" and value_type.sequence_type.elem_type.HasField("map_type"):
        return "scikit-learn models are exported with plain tensors by to_onnx(..., options={'zipmap': False})"
    return "change the model so that it takes and gives tensors"
