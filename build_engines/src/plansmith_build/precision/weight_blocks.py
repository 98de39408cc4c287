"""INT8 and INT4 weights of matrices in blocks, each with a scale of its own: ONNX Runtime's operator MatMulNBits.

What the weights are multiplied with is rounded to INT8 as it comes, in blocks of each row: no ranges are needed, and a
row is answered as if alone. ONNX Runtime and OpenVINO compute it on a CPU
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits).
"""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper, numpy_helper

from plansmith_build.precision.calibration import without_warnings
from plansmith_build.precision.errors import ConversionFailed, failing_as
from plansmith_build.precision.variants import Conversion

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["block_conversion", "computes_with_matrices"]

# With fewer rows, filling up a block costs more than it saves.
LEAST_ROWS = 32
# Rows of a column that share a scale. The wider, the faster; four bits need the narrow ones.
BLOCKS = {8: 128, 4: 32}
# What the weights are multiplied with is rounded to INT8, for which CPUs have instructions.
_INT8_ACCURACY = 4


def computes_with_matrices(model: onnx.ModelProto) -> bool:
    """Whether more weights of a graph are multiplied as matrices than convolved."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}

    def of(operators: Collection[str]) -> int:
        read = {node.input[1] for node in model.graph.node if node.op_type in operators}
        return sum(sizes.get(name, 0) for name in read)

    return of({"Gemm", "MatMul"}) > of({"Conv", "ConvTranspose"})


def block_conversion(prepared: onnx.ModelProto, *, bits: int) -> Conversion[onnx.ModelProto]:
    """The weights of MatMul and Gemm in blocks.

    Args:
        prepared: from `preparation.prepare`.
        bits: of a weight, 8 or 4.

    Raises:
        ConversionFailed: no node has such weights.
    """
    matrices = _without_gemm(prepared)
    weights = {
        tensor.name for tensor in matrices.graph.initializer if _is_matrix(tensor) and tensor.dims[0] >= LEAST_ROWS
    }
    layers = tuple(node.name for node in matrices.graph.node if node.op_type == "MatMul" and node.input[1] in weights)
    if not layers:
        raise ConversionFailed(f"no MatMul or Gemm has constant weights of {LEAST_ROWS} rows or more")
    others = [node.name for node in matrices.graph.node if node.name not in layers]
    layout = f"INT{bits} weights in blocks of {BLOCKS[bits]}, INT8 activations as they come"
    return Conversion(partial(_quantized, matrices, bits, others), layers, layout)


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2  # noqa: PLR2004 - rows and columns


def _quantized(matrices: onnx.ModelProto, bits: int, others: Collection[str], keep: Collection[str]) -> onnx.ModelProto:
    quantization = _imported()
    with without_warnings(), failing_as("the quantizer of weights failed"):
        config = quantization.DefaultWeightOnlyQuantConfig(
            block_size=BLOCKS[bits], is_symmetric=True, accuracy_level=_INT8_ACCURACY, bits=bits
        )
        excluded = [*others, *keep]
        quantizer = quantization.MatMulNBitsQuantizer(deepcopy(matrices), nodes_to_exclude=excluded, algo_config=config)
        quantizer.process()
    model: onnx.ModelProto = quantizer.model.model
    return model


def _imported() -> Any:
    """ONNX Runtime's quantizer, which otherwise makes every program that imports it log to the terminal."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    from onnxruntime.quantization import matmul_nbits_quantizer  # noqa: PLC0415 - see above

    root.handlers[:] = handlers
    root.setLevel(level)
    return matmul_nbits_quantizer


def _without_gemm(prepared: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which Gemm with constant weights is a MatMul and an Add, which the quantizer takes."""
    copy = deepcopy(prepared)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer if _is_matrix(tensor)}
    nodes = []
    for node in copy.graph.node:
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        weight = weights.get(node.input[1]) if node.op_type == "Gemm" else None
        if weight is None or given.get("transA") or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
            nodes.append(node)
            continue
        name = node.input[1]
        if given.get("transB"):
            name = f"{node.name}_weights"
            copy.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), name))
        bias = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - it may be left out
        product = f"{node.name}_product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], node.name))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [node.output[0]], f"{node.name}_bias"))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in copy.graph.initializer if tensor.name in read or tensor.name not in weights]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy
