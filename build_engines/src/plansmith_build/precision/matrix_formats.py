"""MatMul and Gemm in formats that GPUs multiply: weights of 8 or 4 bits beside FP16, and FP8 on both sides.

Their layouts are those of
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html: weights of INT8 with a
scale for each column, weights of INT4 with a scale for each block of a column, FP8 (E4M3) with one scale for what is
multiplied and one for each column of the weights; zero points are 0.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.shape_inference import infer_shapes

from plansmith_build.precision.errors import ConversionFailed, failing_as
from plansmith_build.precision.matrix_inputs import observe_inputs
from plansmith_build.reading.graphs import nodes_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import DTypeLike

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.precision.matrix_inputs import SeenInput

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "FP8",
    "W4A16",
    "W8A16",
    "MatrixFormat",
    "NarrowWeight",
    "matrix_nodes",
    "narrow_weights",
    "to_matrix_format",
]

# As INT8: below, a tensor core is not filled.
SMALLEST_MATRIX = 16
# ModelOpt's default first.
BLOCKS = (128, 64, 32)
LEAST_IR_VERSION = 10
# Of the largest weight of a block's column, which is clipped to it: as ModelOpt's.
SHARES = tuple(1 - step / 20 for step in range(10))
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


@dataclass(frozen=True)
class NarrowWeight:
    """A weight in a format.

    Attributes:
        values: of the format's type, of the weight's shape.
        scales: FP32, one for each column or each block of a column.
        attributes: of its DequantizeLinear.
    """

    values: Array
    scales: Array
    attributes: Mapping[str, int]


def matrix_nodes(model: onnx.ModelProto, form: MatrixFormat) -> tuple[str, ...]:
    """The names of the nodes whose weights a format takes, in the graph's order.

    Args:
        model: from `preparation.prepare`.
        form: the format.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return tuple(node.name for node in model.graph.node if _takes(node, weights, form))


def narrow_weights(
    model: onnx.ModelProto, form: MatrixFormat, batches: Sequence[Arrays]
) -> tuple[dict[str, NarrowWeight], dict[str, float]]:
    """The weights of each node of `matrix_nodes` in a format, and the largest value of each tensor that they multiply.

    Weights in blocks are clipped where that brings what the block gives on the data closer to FP32, as ModelOpt's
    `awq_clip` does; otherwise data is needed by formats with `inputs` only.

    Args:
        model: from `preparation.prepare`.
        form: the format.
        batches: inputs by name, as the model takes them.

    Raises:
        ConversionFailed: the model could not be run on the data.
    """
    chosen = set(matrix_nodes(model, form))
    nodes = [node for node in model.graph.node if node.name in chosen]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    seen = observe_inputs(model, [node.input[0] for node in nodes], batches) if form.blocks or form.inputs else {}
    narrow = {
        node.name: _narrow(
            numpy_helper.to_array(weights[node.input[1]]), _row_axis(node), form, seen.get(node.input[0])
        )
        for node in nodes
    }
    return narrow, {name: tensor.largest for name, tensor in seen.items()}


def to_matrix_format(
    model: onnx.ModelProto,
    form: MatrixFormat,
    weights: Mapping[str, NarrowWeight],
    largest: Mapping[str, float],
    *,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy whose weights are in a format, each followed by its DequantizeLinear.

    Args:
        model: from `preparation.prepare`, of operator set `form.opset` or later.
        form: the format.
        weights: from `narrow_weights`.
        largest: from there, too.
        keep: names of nodes that compute in floating point.

    Raises:
        ConversionFailed: no node has such weights, or the result is not a valid model.
    """
    chosen = weights.keys() - set(keep)
    if not chosen:
        raise ConversionFailed("no MatMul or Gemm has constant weights that are large enough for it")
    copy = deepcopy(model)
    copy.ir_version = max(copy.ir_version, LEAST_IR_VERSION)
    inputs: dict[str, str] = {}
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        if node.name in chosen:
            source = node.input[0]
            if form.inputs and source not in inputs:
                inputs[source] = _add_input(copy.graph, source, largest[source], form)
            node.input[0] = inputs.get(source, source)
            # Its own, also where several read the same: TensorRT for RTX 1.7 crashes on some of those.
            node.input[1] = _add_weight(copy.graph, f"{node.name}/{node.input[1]}", weights[node.name])
        copy.graph.node.append(node)
    _drop_unread_weights(copy, model)
    with failing_as(f"the graph with {form.name} is not a valid model"):
        inferred = infer_shapes(copy)
        onnx.checker.check_model(inferred, full_check=True)
    return inferred


def _takes(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], form: MatrixFormat) -> bool:
    weight = weights.get(node.input[1]) if node.op_type in {"MatMul", "Gemm"} else None
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) != 2:  # noqa: PLR2004 - a matrix
        return False
    if min(weight.dims) < SMALLEST_MATRIX or _attribute(node, "transA"):
        return False
    return not form.blocks or _block(weight.dims[_row_axis(node)]) > 0


def _block(rows: int) -> int:
    return next((size for size in BLOCKS if rows % size == 0), 0)


def _row_axis(node: onnx.NodeProto) -> int:
    """The axis of the weights that is summed over."""
    return _attribute(node, "transB")


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _narrow(values: Array, rows: int, form: MatrixFormat, seen: SeenInput | None) -> NarrowWeight:
    """A weight in a format: as [blocks, rows of a block, columns] while it is computed."""
    upright = values if rows == 0 else values.T
    size, columns = upright.shape
    block = _block(size) if form.blocks else size
    blocks = upright.reshape(size // block, block, columns)
    greatest = np.abs(blocks).max(axis=1, keepdims=True)
    scales = _scale(greatest, form)
    if form.blocks and seen is not None:
        scales = _clipped(blocks, greatest, form, seen.rows)
    narrow = _rounded(blocks, scales, form).reshape(upright.shape).astype(form.dtype)
    scales = scales.reshape(-1, columns)
    if not form.blocks:
        return NarrowWeight(narrow if rows == 0 else narrow.T, scales.reshape(-1), {"axis": 1 - rows})
    attributes = {"axis": rows, "block_size": block}
    return NarrowWeight(narrow if rows == 0 else narrow.T, scales if rows == 0 else scales.T, attributes)


def _clipped(blocks: Array, greatest: Array, form: MatrixFormat, rows: Array) -> Array:
    """The scale of each block's column with which it gives on these rows what is closest to FP32."""
    parts = rows.reshape(len(rows), *blocks.shape[:2]).transpose(1, 0, 2)
    best: Array | None = None
    least: Array | None = None
    for share in SHARES:
        scales = _scale(greatest * share, form)
        error = np.square(parts @ (_rounded(blocks, scales, form) * scales - blocks)).sum(axis=1, keepdims=True)
        better = error < least if least is not None else np.ones(error.shape, bool)
        best = scales if best is None else np.where(better, scales, best)
        least = error if least is None else np.where(better, error, least)
    return scales if best is None else best


def _rounded(blocks: Array, scales: Array, form: MatrixFormat) -> Array:
    scaled = blocks / scales
    return np.clip(scaled if form.inputs else np.rint(scaled), -form.largest, form.largest)


def _scale(greatest: Array, form: MatrixFormat) -> Array:
    """As FP16 holds it: what computes in FP16 and what stands for it on a CPU then read the same weights."""
    return np.maximum(greatest / form.largest, SMALLEST_SCALE).astype(np.float16).astype(np.float32)


def _add_weight(graph: onnx.GraphProto, label: str, weight: NarrowWeight) -> str:
    """Put a weight and its DequantizeLinear into the graph; returns what that gives."""
    name, scale, wide = (f"{label}/{what}" for what in ("narrow", "scale", "wide"))
    graph.initializer.append(numpy_helper.from_array(weight.values, name))
    graph.initializer.append(numpy_helper.from_array(weight.scales, scale))
    attributes: dict[str, Any] = dict(weight.attributes)
    graph.node.append(helper.make_node("DequantizeLinear", [name, scale], [wide], name=f"{wide}/read", **attributes))
    return wide


def _add_input(graph: onnx.GraphProto, name: str, largest: float, form: MatrixFormat) -> str:
    """Put QuantizeLinear and DequantizeLinear behind a tensor; returns what they give."""
    scale, zero, narrow, wide = (f"{name}/{what}" for what in ("scale", "zero", "narrow", "wide"))
    graph.initializer.append(numpy_helper.from_array(_scale(np.array(largest), form), scale))
    graph.initializer.append(numpy_helper.from_array(np.zeros((), form.dtype), zero))
    graph.node.append(helper.make_node("QuantizeLinear", [name, scale, zero], [narrow], name=f"{narrow}/write"))
    graph.node.append(helper.make_node("DequantizeLinear", [narrow, scale, zero], [wide], name=f"{wide}/read"))
    return wide


def _drop_unread_weights(copy: onnx.ModelProto, model: onnx.ModelProto) -> None:
    read = {name for node in nodes_of(copy) for name in node.input}
    replaced = {tensor.name for tensor in model.graph.initializer} - read
    kept = [tensor for tensor in copy.graph.initializer if tensor.name not in replaced]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
