"""Residual sums as TensorRT fuses them in INT8: one branch quantized, the one that a layer computes left as it is.

Where it is neither, Conv and Add are two kernels; where both are quantized, the layer's result is rounded before it is
added: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["quantize_one_branch"]

# What stands between a layer and its sum without being a kernel of its own.
_FOLDED = "BatchNormalization"
LARGEST_INT8 = 127
# A branch that was seen to be 0 only still needs a scale above 0.
SMALLEST_SCALE = 1e-8


def quantize_one_branch(model: onnx.ModelProto, ranges: Any, *, layers: Collection[str]) -> None:
    """Put a pair of Q/DQ on one branch of each sum whose other branch is a quantized layer's, in place.

    Args:
        model: with the inputs of its layers quantized.
        ranges: onnxruntime's TensorsData; a branch that has none is left alone.
        layers: the names of the quantized layers.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in [node for node in model.graph.node if node.op_type == "Add"]:
        if weights.intersection(node.input):
            continue
        makers = [made_by.get(name) for name in node.input]
        from_layer = [maker is not None and _source(maker, made_by).name in layers for maker in makers]
        quantized = any(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
        if quantized or not any(from_layer):
            continue
        # Two layers end in the sum where a block changes its number of channels: the second is as good as the first.
        position = 1 if from_layer[0] else 0
        branch = node.input[position]
        if branch in ranges.keys():  # noqa: SIM118 - TensorsData is no mapping
            node.input[position] = _add_pair(model, node.name, branch, _scale(ranges[branch]))


def _source(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> onnx.NodeProto:
    while node.op_type == _FOLDED and node.input[0] in made_by:
        node = made_by[node.input[0]]
    return node


def _scale(data: Any) -> float:
    low, high = data.range_value
    return max(float(np.max(np.abs([low, high]))) / LARGEST_INT8, SMALLEST_SCALE)


def _add_pair(model: onnx.ModelProto, label: str, branch: str, scale: float) -> str:
    names = [f"{label}/{branch}/{part}" for part in ("scale", "zero_point", "quantized", "dequantized")]
    scale_name, zero_name, quantized, dequantized = names
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), scale_name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero_name))
    make = onnx.helper.make_node
    model.graph.node.append(make("QuantizeLinear", [branch, scale_name, zero_name], [quantized], name=quantized))
    model.graph.node.append(
        make("DequantizeLinear", [quantized, scale_name, zero_name], [dequantized], name=dequantized)
    )
    return dequantized
