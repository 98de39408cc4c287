"""Why a graph cannot take batches, read off its inputs, outputs and operators before anything is run."""

from __future__ import annotations

import re
from copy import deepcopy
from enum import StrEnum
from typing import TYPE_CHECKING

import onnx

from plansmith_build.portable.repair import infer_shapes
from plansmith_build.reading.graphs import consumed_names, direct_subgraphs, node_label, nodes_of, operator_name
from plansmith_build.reading.number_formats import DYNAMIC_QUANTIZATION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from plansmith_build.reading.signatures import Signature

__all__ = ["BatchAxis", "dynamic_quantization", "obstacle_in_graph", "obstacle_in_inputs", "outputs_with_rows"]

_ROWS = "plansmith_rows"

# They make each row as long as the longest of the batch.
_PADDING = {"StringSplit", "com.microsoft:Tokenizer"}
# How many rows these give is told by values, not by shapes.
_COUNTS_VALUES = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
# The inputs of these that say how large the result is, by position.
_SIZES_AT: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
# Exporters number what they have no name for (`unk__7`, `s0`, `Gemmoutput_dim_0`, `?`): such a name says nothing.
_MADE_UP = re.compile(r"\W*|.*\d|None|unknown|unk", re.IGNORECASE)
_BATCH_NAME = re.compile(r"n|b|rows?|.*batch.*", re.IGNORECASE)


class BatchAxis(StrEnum):
    """Which dimension of every input and output is the batch dimension.

    AUTO: the first, unless the graph says otherwise. NONE: the model takes no batches. FIRST: the first, whatever its
    name; whether each row is then answered as if it were alone is still verified.
    """

    AUTO = "auto"
    NONE = "none"
    FIRST = "0"


def obstacle_in_inputs(signature: Signature, axis: BatchAxis = BatchAxis.AUTO) -> str:
    """Why the first dimension of the inputs cannot be a batch dimension, or an empty string."""
    if axis is BatchAxis.NONE:
        return "--batch-axis none says that the model has no batch dimension"
    for spec in signature.inputs:
        if spec.optional:
            return f"input {spec.name!r} has a default, which does not grow with the batch"
        if not spec.shape:
            return f"input {spec.name!r} is a single number, without a first dimension"
    firsts = {spec.name: spec.shape[0] for spec in signature.inputs}
    if len(set(firsts.values())) > 1:
        sizes = ", ".join(f"{name!r} {'any number' if size < 0 else size}" for name, size in firsts.items())
        return f"the inputs have different first dimensions: {sizes}"
    return "" if axis is BatchAxis.FIRST else _obstacle_in_names(signature)


def obstacle_in_graph(model: onnx.ModelProto, signature: Signature, axis: BatchAxis = BatchAxis.AUTO) -> str:
    """Why the outputs cannot have one row for each row of the inputs, or an empty string.

    For a graph in whose inputs `obstacle_in_inputs` finds nothing.
    """
    inferred = _with_named_rows(model)
    mixing = _mixing_of_rows(inferred)
    if mixing:
        return mixing
    rows = signature.inputs[0].shape[0]
    symbol = next((names[0] for names in signature.symbols.values() if _says_something(names[0])), "")
    certain = _outputs_with_rows(inferred)
    uncertain = _sized_by_values(model)
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if value.name in certain or not tensor.HasField("shape"):
            continue
        if not tensor.shape.dim:
            return f"output {value.name!r} is a single number for all rows"
        if value.name in uncertain:
            return f"how many rows output {value.name!r} has depends on the data: {uncertain[value.name]} decides it"
        first = tensor.shape.dim[0]
        if rows > 0 and first.dim_value and first.dim_value != rows:
            return f"output {value.name!r} has {first.dim_value} rows for {rows} in the input"
        other = _says_something(first.dim_param) and first.dim_param != symbol
        # A tool that fixes the rows of the inputs often leaves the outputs' name for them.
        known = bool(symbol) if rows < 0 else not _BATCH_NAME.fullmatch(first.dim_param)
        if axis is BatchAxis.AUTO and other and known:
            inputs = repr(symbol) if symbol else str(rows)
            return (
                f"output {value.name!r} has {first.dim_param!r} rows for {inputs} in the input: where that is the same "
                "number, give --batch-axis 0"
            )
    return _reduction_of_rows(inferred) if axis is BatchAxis.AUTO else ""


def _mixing_of_rows(inferred: onnx.ModelProto) -> str:
    """Why the answer to a row depends on the other rows of a batch, or an empty string."""
    quantizer = dynamic_quantization(inferred)
    if quantizer:
        return (
            f"{quantizer} takes its scale from all rows of a batch, so that the answer to a row would depend on the "
            "other rows of the batch"
        )
    padding = _first_node(inferred, _PADDING)
    if padding:
        return f"{padding} makes the answer to a row as long as that of the longest row of a batch"
    return ""


def _reduction_of_rows(inferred: onnx.ModelProto) -> str:
    """Why a node that reduces over rows stands in the way, or an empty string.

    Where the value is compared with a threshold, all samples may be on one side of it.
    """
    graph = inferred.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    for node in graph.node:
        if not node.input or not operator_name(node).startswith("Reduce"):
            continue
        names = [dimension.dim_param for dimension in shapes.get(node.input[0], ())]
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        axes = attributes.get("axes", [])
        if len(node.input) > 1 and node.input[1]:
            tensor = constants.get(node.input[1])
            if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
                continue
            axes = onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
        everything = not (axes or attributes.get("noop_with_empty_axes"))
        reduced = names if everything else [names[axis] for axis in axes if -len(names) <= axis < len(names)]
        if _ROWS in reduced:
            return (
                f"node {node_label(node)} ({node.op_type}) takes one value from all rows of a batch, so that the "
                "answer to a row may depend on the other rows; if it never does, give --batch-axis 0"
            )
    return ""


def dynamic_quantization(model: onnx.ModelProto) -> str:
    """The first node that quantizes with a scale of what it is given, in words, or an empty string."""
    return _first_node(model, DYNAMIC_QUANTIZATION)


def _first_node(model: onnx.ModelProto, operators: Collection[str]) -> str:
    found = (node for node in nodes_of(model) if operator_name(node) in operators)
    return next((f"node {node_label(node)} ({node.op_type})" for node in found), "")


def _obstacle_in_names(signature: Signature) -> str:
    names = {name: symbols[0] for name, symbols in signature.symbols.items() if _says_something(symbols[0])}
    if len(set(names.values())) > 1:
        said = ", ".join(f"{name!r} {symbol!r}" for name, symbol in names.items())
        return f"the first dimensions of the inputs have different names: {said}; if they are one, give --batch-axis 0"
    for name, symbols in signature.symbols.items():
        for axis, symbol in enumerate(symbols[1:], start=1):
            if symbol and symbol in names.values():
                return f"dimension {symbol!r} of the rows is dimension {axis} of input {name!r} as well"
    for spec in signature.inputs:
        if len(spec.shape) == 1 and spec.shape[0] > 1:
            return f"input {spec.name!r} is a vector of {spec.shape[0]} elements, which are not the rows of a batch"
    if all(spec.shape == (-1,) for spec in signature.inputs):
        symbol = next(iter(names.values()), "")
        if not _BATCH_NAME.fullmatch(symbol):
            return (
                f"every input is a sequence [{symbol or 'any length'}], such as sound or tokens, and has no dimension "
                "for a batch; if its elements are rows, give --batch-axis 0"
            )
    return ""


def _says_something(symbol: str) -> bool:
    return not _MADE_UP.fullmatch(symbol)


def outputs_with_rows(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs whose first dimension is the inputs' first dimension, by the definitions of the operators."""
    return _outputs_with_rows(_with_named_rows(model))


def _with_named_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose shapes are inferred from inputs with a first dimension of a name of its own."""
    copy = deepcopy(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = _ROWS
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return infer_shapes(copy)


def _outputs_with_rows(inferred: onnx.ModelProto) -> frozenset[str]:
    return frozenset(
        value.name
        for value in inferred.graph.output
        if value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].dim_param == _ROWS
    )


def _sized_by_values(model: onnx.ModelProto) -> dict[str, str]:
    """The tensors whose size may depend on values, not on shapes alone, with the node that makes it so."""
    # Branches and bodies are taken as a whole: what any of their nodes does is what the If or Loop does.
    counting = {
        (function.domain, function.name)
        for function in model.functions
        if any(inner.op_type in _COUNTS_VALUES for node in function.node for inner in _with_inner(node))
    }
    values = {value.name for value in model.graph.input}
    sized: dict[str, str] = {}
    for node in model.graph.node:
        read = consumed_names(node)
        depends = not values.isdisjoint(read) and operator_name(node) not in {"Shape", "Size"}
        cause = next((sized[name] for name in sorted(read) if name in sized), "")
        counts = (node.domain, node.op_type) in counting or any(
            _counts(inner, node, values) for inner in _with_inner(node)
        )
        if not cause and depends and counts:
            cause = f"node {node_label(node)} ({node.op_type})"
        if depends:
            values.update(node.output)
        if cause:
            sized.update(dict.fromkeys(node.output, cause))
            # Its shape tells how many values were found.
            values.update(node.output)
    return sized


def _with_inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for graph in direct_subgraphs(node):
        for inner in graph.node:
            yield from _with_inner(inner)


def _counts(inner: onnx.NodeProto, outer: onnx.NodeProto, values: set[str]) -> bool:
    if operator_name(inner) in _COUNTS_VALUES:
        return inner is not outer or not values.isdisjoint(inner.input)
    if inner is not outer:
        return False
    if operator_name(inner) == "Loop":
        # What it gathers has as many rows as it had rounds.
        return not values.isdisjoint(inner.input[:2])
    return any(place < len(inner.input) and inner.input[place] in values for place in _SIZES_AT.get(inner.op_type, ()))
