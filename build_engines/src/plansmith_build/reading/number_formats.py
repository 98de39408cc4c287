"""The numbers that a graph computes in, and those that its weights are stored in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import TensorProto

from plansmith_build.reading.graphs import nodes_of, operator_name, tensors_of

if TYPE_CHECKING:
    import onnx

__all__ = ["DYNAMIC_QUANTIZATION", "coarsest_float", "quantization_of", "stored_format"]

# From coarse to fine.
_FLOATS: dict[int, str] = {
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
}
_FLOAT8 = {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ}
# They take one scale from all that they are given.
DYNAMIC_QUANTIZATION = {
    "DynamicQuantizeLinear",
    "com.microsoft:DynamicQuantizeLSTM",
    "com.microsoft:DynamicQuantizeMatMul",
}
_WEIGHT_ONLY = {"com.microsoft:MatMulNBits", "com.microsoft:GatherBlockQuantized", "com.microsoft:MatMulBnb4"}
_INTEGER = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def coarsest_float(model: onnx.ModelProto) -> str:
    """The coarsest floating-point type that anything in the graph has: "BF16", "FP16", "FP32" or "FP64"."""
    types = {tensor.data_type for tensor in tensors_of(model)}
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    types.update(value.type.tensor_type.elem_type for value in values)
    for node in nodes_of(model):
        types.update(attribute.i for attribute in node.attribute if node.op_type == "Cast" and attribute.name == "to")
    return next((name for number, name in _FLOATS.items() if number in types), "FP32")


def quantization_of(model: onnx.ModelProto) -> str:
    """How a graph is quantized already: "dynamic INT8", "INT8 operators", "INT8 QDQ", "FP8 QDQ", "weight-only", ""."""
    operators = {operator_name(node) for node in nodes_of(model)}
    if operators & DYNAMIC_QUANTIZATION:
        return "dynamic INT8"
    if operators & _INTEGER or any(name.startswith("com.microsoft:QLinear") for name in operators):
        return "INT8 operators"
    if "QuantizeLinear" in operators and "DequantizeLinear" in operators:
        return "FP8 QDQ" if any(tensor.data_type in _FLOAT8 for tensor in tensors_of(model)) else "INT8 QDQ"
    if operators & _WEIGHT_ONLY:
        return "weight-only"
    return "weight-only" if "DequantizeLinear" in operators else ""


def stored_format(model: onnx.ModelProto) -> str:
    """What to call a graph by its weights: how it is quantized, or the type of most of its floating-point weights."""
    quantization = quantization_of(model)
    if quantization:
        return quantization
    counts: dict[int, int] = dict.fromkeys(_FLOATS, 0)
    for tensor in tensors_of(model):
        if tensor.data_type in counts:
            counts[tensor.data_type] += math.prod(tensor.dims)
    most = max(counts, key=lambda number: counts[number])
    return _FLOATS[most] if counts[most] else coarsest_float(model)
