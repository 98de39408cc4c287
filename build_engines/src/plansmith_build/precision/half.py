"""FP16 and BF16: casts put into the graph, inputs and outputs left as they are.

onnxconverter-common does the conversion; docs/how-a-build-decides.md says why it and not another.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.shape_inference import infer_shapes
from onnxconverter_common import float16

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.reading.graphs import nodes_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["HalfType", "convertible_nodes", "rounded", "to_bfloat16", "to_float16"]


class HalfType(IntEnum):
    """A number of 16 bits, by its TensorProto.DataType."""

    FLOAT16 = 10
    BFLOAT16 = 16


LARGEST_FLOAT16 = 65504.0
SMALLEST_FLOAT16 = 2.0**-24


def convertible_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the nodes of the main graph that can compute in 16 bits, in the graph's order."""
    blocked = set(float16.DEFAULT_OP_BLOCK_LIST) | {"Cast", "Constant", "Shape"}
    return tuple(node.name for node in model.graph.node if node.op_type not in blocked)


def to_float16(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy that computes in FP16.

    Args:
        model: from `preparation.prepare`.
        keep: names of nodes that compute in FP32.

    Raises:
        ConversionFailed: the converter failed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _unshare_weights(copy, keep=keep)
    _part_outputs(copy)
    try:
        # It prints and warns of each weight that it rounds to the smallest or largest number: the verification judges.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            converted: onnx.ModelProto = float16.convert_float_to_float16(
                copy,
                min_positive_val=SMALLEST_FLOAT16,
                max_finite_val=LARGEST_FLOAT16,
                keep_io_types=True,
                node_block_list=list(keep),
                check_fp16_ready=False,
            )
    except Exception as error:
        raise ConversionFailed(f"the FP16 converter failed: {type(error).__name__}: {_said(error)}") from error
    _narrow_casts(converted, model)
    _restore_outputs(converted, model)
    return _checked(converted, "FP16")


def to_bfloat16(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy that computes in BF16, which ONNX Runtime's CPU provider does not run: see `rounded`.

    Args:
        model: from `preparation.prepare`, of operator set `BFLOAT16_OPSET` or later.
        keep: names of nodes that compute in FP32.

    Raises:
        ConversionFailed: the converter failed, the model has FP16 of its own, or what came of it is no valid model.
    """
    if TensorProto.FLOAT16 in _types(model):
        raise ConversionFailed("the model has FP16 of its own, which BF16 cannot hold: use --precision fp16")
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    converted = to_float16(model, keep=keep)
    for tensor in converted.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            # From the original: rounding by way of FP16 would lose what BF16 can hold.
            exact = weights.get(tensor.name)
            values = numpy_helper.to_array(exact if exact is not None else tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(ml_dtypes.bfloat16), tensor.name))
    for node in nodes_of(converted):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(attribute.t).astype(ml_dtypes.bfloat16)
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    return _checked(converted, "BF16")


def rounded(model: onnx.ModelProto, number: HalfType, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """What `to_float16` or `to_bfloat16` computes, on a runtime that has no such arithmetic.

    FP32 arithmetic, each weight and each result rounded: that is what an accelerator does that accumulates in FP32.
    ONNX Runtime's CPU provider runs FP16 graphs, too, but in FP32 from node to node, so that no overflow shows. This
    one must not be optimised by it.

    Args:
        model: from `preparation.prepare`.
        number: what to round to.
        keep: names of nodes that compute in FP32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    floats = _float_tensors(model)
    converted = set(convertible_nodes(model)) - set(keep)
    read = {name for node in nodes if node.name in converted for name in node.input}
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in read:
            tensor.CopyFrom(numpy_helper.from_array(_round_array(numpy_helper.to_array(tensor), number), tensor.name))
    del copy.graph.node[:]
    renamed = {}
    for name in sorted(read & {value.name for value in copy.graph.input} & floats):
        renamed[name] = f"{name}/rounded"
        copy.graph.node.extend(_round_tensor(name, name, renamed[name], number))
    for node in nodes:
        outputs = [name for name in node.output if node.name in converted and name in floats]
        if node.name in converted:
            for position, name in enumerate(node.input):
                node.input[position] = renamed.get(name, name)
        for position, name in enumerate(node.output):
            if name in outputs:
                node.output[position] = f"{name}/exact"
        copy.graph.node.append(node)
        for name in outputs:
            copy.graph.node.extend(_round_tensor(name, f"{name}/exact", name, number))
    del copy.graph.value_info[:]
    return copy


def _checked(converted: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same with shapes, once the specification has nothing against it.

    Raises:
        ConversionFailed: it is no valid model: a node gets inputs of two types, for example.
    """
    # What the converter left in FP32 for want of a shape is declared by types that no longer hold.
    del converted.graph.value_info[:]
    try:
        inferred = infer_shapes(converted, strict_mode=False)
        onnx.checker.check_model(inferred, full_check=True)
    except Exception as error:
        raise ConversionFailed(f"the graph in {name} is no valid model: {_said(error)}") from error
    return inferred


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _types(model: onnx.ModelProto) -> set[int]:
    """The types of everything that is declared or held as a weight."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    return {value.type.tensor_type.elem_type for value in values} | {tensor.data_type for tensor in tensors_of(model)}


def _part_outputs(model: onnx.ModelProto) -> None:
    """Let no node read an output of the graph, in place: outputs keep their types, and what is inside does not."""
    read = {name for node in nodes_of(model) for name in node.input}
    for value in model.graph.output:
        if value.name not in read:
            continue
        inner = f"{value.name}/inner"
        for node in nodes_of(model):
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == value.name:
                        names[position] = inner
        copy = onnx.helper.make_node("Identity", [inner], [value.name], name=f"{value.name}/outer")
        model.graph.node.append(copy)


def _narrow_casts(converted: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Let the model's own casts to FP32 give 16 bits, in place.

    The converter takes it that they do, and leaves them as they are: the nodes behind them get inputs of two types.
    """
    own = {node.name for node in nodes_of(model) if node.op_type == "Cast" and node.name}
    for node in nodes_of(converted):
        for attribute in node.attribute:
            if node.name in own and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16


def _restore_outputs(converted: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give outputs the types that they had, in place: the converter narrows those of nodes that stay in FP32."""
    declared = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    for value in converted.graph.output:
        wanted = declared[value.name]
        if value.type.tensor_type.elem_type == wanted:
            continue
        value.type.tensor_type.elem_type = wanted
        producer = next(node for node in converted.graph.node if value.name in node.output)
        narrow = f"{value.name}/half"
        # A kept node's own numbers, not those that a cast has rounded.
        source = producer.input[0] if producer.op_type == "Cast" else narrow
        producer.output[list(producer.output).index(value.name)] = narrow
        for node in converted.graph.node:
            for position, name in enumerate(node.input):
                if name == value.name:
                    node.input[position] = narrow
        converted.graph.node.append(
            onnx.helper.make_node("Cast", [source], [value.name], name=f"{value.name}/to_float", to=wanted)
        )


def _unshare_weights(model: onnx.ModelProto, *, keep: Collection[str]) -> None:
    """Give nodes that stay in FP32 weights of their own, in place.

    The converter leaves a weight that one of them reads as it is, and the other nodes that read it get the wrong type.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    converted = set(convertible_nodes(model)) - set(keep)
    shared = {name for node in model.graph.node if node.name in converted for name in node.input} & weights.keys()
    copies: dict[str, str] = {}
    for node in model.graph.node:
        if node.name in converted:
            continue
        for position, name in enumerate(node.input):
            if name in shared:
                if name not in copies:
                    copies[name] = f"{name}/fp32"
                    model.graph.initializer.add().CopyFrom(weights[name])
                    model.graph.initializer[-1].name = copies[name]
                node.input[position] = copies[name]


def _round_array(values: np.ndarray[Any, np.dtype[Any]], number: HalfType) -> np.ndarray[Any, np.dtype[Any]]:
    if number is HalfType.BFLOAT16:
        return values.astype(ml_dtypes.bfloat16).astype(np.float32)
    # As the converter does with weights.
    return np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16).astype(np.float32)


def _round_tensor(label: str, source: str, target: str, number: HalfType) -> list[onnx.NodeProto]:
    # ONNX Runtime takes a cast there and back for its own and drops both, unless something stands between them.
    narrow, apart = f"{label}/narrow", f"{label}/apart"
    return [
        onnx.helper.make_node("Cast", [source], [narrow], name=f"{label}/to_half", to=number.value),
        onnx.helper.make_node("Identity", [narrow], [apart], name=f"{label}/between"),
        onnx.helper.make_node("Cast", [apart], [target], name=f"{label}/to_float", to=TensorProto.FLOAT),
    ]


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
