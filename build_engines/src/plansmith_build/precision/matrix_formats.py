"""MatMul and Gemm in formats that GPUs multiply: weights of 8 or 4 bits beside FP16, and FP8 on both sides.

Their layouts are those of
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html: weights of INT8 with a
scale for each column, weights of INT4 with a scale for each block of a column, FP8 (E4M3) with one scale for what is
multiplied and one for each column of the weights; zero points are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.shape_inference import infer_shapes

from plansmith_build.precision.errors import ConversionFailed

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import DTypeLike

__all__ = ["FP8", "W4A16", "W8A16", "MatrixFormat", "matrix_nodes", "to_matrix_format"]

# As INT8: below, a tensor core is not filled.
SMALLEST_MATRIX = 16
# ModelOpt's default first.
BLOCKS = (128, 64, 32)
LEAST_IR_VERSION = 10
# The least scale that FP16 holds in full: a smaller one would be another in the graph whose rest is in FP16.
SMALLEST_SCALE = 2.0**-14


@dataclass(frozen=True)
class MatrixFormat:
    """A format of the weights of MatMul and Gemm.

    Attributes:
        name: in a few words, for tables and manifests.
        dtype: of a weight.
        largest: the largest weight.
        opset: the least version of the standard operators.
        blocks: whether each column has a scale for each block of its rows, instead of one.
        inputs: whether what the weights are multiplied with is in the same format.
    """

    name: str
    dtype: DTypeLike
    largest: float
    opset: int
    blocks: bool = False
    inputs: bool = False


W8A16 = MatrixFormat("INT8 weights, FP16 activations", np.int8, 127, opset=19)
W4A16 = MatrixFormat("INT4 weights in blocks, FP16 activations", ml_dtypes.int4, 7, opset=21, blocks=True)
FP8 = MatrixFormat("FP8 (E4M3) weights and activations", ml_dtypes.float8_e4m3fn, 448, opset=19, inputs=True)


def matrix_nodes(model: onnx.ModelProto, form: MatrixFormat) -> tuple[str, ...]:
    """The names of the nodes whose weights a format takes, in the graph's order.

    Args:
        model: from `preparation.prepare`.
        form: the format.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return tuple(node.name for node in model.graph.node if _takes(node, weights, form))


def to_matrix_format(
    model: onnx.ModelProto, form: MatrixFormat, ranges: Any = None, *, keep: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy whose weights are in a format, each followed by its DequantizeLinear.

    Args:
        model: from `preparation.prepare`, of operator set `form.opset` or later.
        form: the format.
        ranges: from `calibration.calibrate`, for a format with `inputs`.
        keep: names of nodes that compute in floating point.

    Raises:
        ConversionFailed: no node has such weights, or the result is not a valid model.
    """
    chosen = set(matrix_nodes(model, form)) - set(keep)
    if not chosen:
        raise ConversionFailed("no MatMul or Gemm has constant weights that are large enough for it")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, LEAST_IR_VERSION)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs: dict[str, str] = {}
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        if node.name in chosen:
            source = node.input[0]
            if form.inputs and source not in inputs:
                inputs[source] = _add_input(copy.graph, source, ranges, form)
            node.input[0] = inputs.get(source, source)
            # Its own, also where several read the same: TensorRT for RTX 1.7 crashes on some of those.
            node.input[1] = _add_weight(copy.graph, node, weights[node.input[1]], form)
        copy.graph.node.append(node)
    read = {name for node in copy.graph.node for name in node.input}
    kept = [tensor for tensor in copy.graph.initializer if tensor.name in read or tensor.name not in weights]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    try:
        inferred = infer_shapes(copy)
        onnx.checker.check_model(inferred, full_check=True)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ConversionFailed(f"the graph with {form.name} is not a valid model: {said}") from error
    return inferred


def _takes(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], form: MatrixFormat) -> bool:
    weight = weights.get(node.input[1]) if node.op_type in {"MatMul", "Gemm"} else None
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) != 2:  # noqa: PLR2004 - a matrix
        return False
    if min(weight.dims) < SMALLEST_MATRIX:
        return False
    return not form.blocks or _block(weight.dims[_row_axis(node)]) > 0


def _block(rows: int) -> int:
    return next((size for size in BLOCKS if rows % size == 0), 0)


def _row_axis(node: onnx.NodeProto) -> int:
    """The axis of the weights that is summed over."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)


def _add_weight(graph: onnx.GraphProto, node: onnx.NodeProto, weight: onnx.TensorProto, form: MatrixFormat) -> str:
    """Put a node's weight in the format and its DequantizeLinear into the graph; returns what that gives."""
    rows = _row_axis(node)
    values = numpy_helper.to_array(weight)
    size = values.shape[rows]
    block = _block(size) if form.blocks else size
    split = (*values.shape[:rows], size // block, block, *values.shape[rows + 1 :])
    blocks = values.reshape(split)
    scales = _scale(np.abs(blocks).max(axis=rows + 1), form)
    scaled = blocks / np.expand_dims(scales, rows + 1)
    if not form.inputs:
        scaled = np.rint(scaled)
    narrow = np.clip(scaled, -form.largest, form.largest).reshape(values.shape).astype(form.dtype)
    attributes: dict[str, Any] = {"axis": rows, "block_size": block} if form.blocks else {"axis": 1 - rows}
    name, scale, wide = (f"{node.name}/{weight.name}/{what}" for what in ("narrow", "scale", "wide"))
    graph.initializer.append(numpy_helper.from_array(narrow, name))
    graph.initializer.append(numpy_helper.from_array(scales if form.blocks else scales.reshape(-1), scale))
    graph.node.append(
        helper.make_node("DequantizeLinear", [name, scale], [wide], name=f"{wide}/dequantize", **attributes)
    )
    return wide


def _add_input(graph: onnx.GraphProto, name: str, ranges: Any, form: MatrixFormat) -> str:
    """Put QuantizeLinear and DequantizeLinear behind a tensor; returns what they give."""
    if name not in ranges:
        raise ConversionFailed(f"the data shows no range of {name!r}")
    low, high = (float(np.max(np.abs(bound))) for bound in ranges[name].range_value)
    scale, zero = f"{name}/scale", f"{name}/zero"
    graph.initializer.append(numpy_helper.from_array(_scale(np.array(max(low, high)), form), scale))
    graph.initializer.append(numpy_helper.from_array(np.zeros((), form.dtype), zero))
    narrow, wide = f"{name}/narrow", f"{name}/wide"
    graph.node.append(helper.make_node("QuantizeLinear", [name, scale, zero], [narrow], name=f"{name}/quantize"))
    graph.node.append(helper.make_node("DequantizeLinear", [narrow, scale, zero], [wide], name=f"{name}/dequantize"))
    return wide


def _scale(greatest: np.ndarray[Any, np.dtype[Any]], form: MatrixFormat) -> np.ndarray[Any, np.dtype[Any]]:
    """As FP16 holds it: what computes in FP16 and what stands for it on a CPU then read the same weights."""
    return np.maximum(greatest / form.largest, SMALLEST_SCALE).astype(np.float16).astype(np.float32)
