"""The rows of an ONNX model, by the shape inference of the package onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from plansmith_server.backends.rows import MADE_UP_NAME, Rows, trace_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from plansmith_server.backends.rows import Shape

__all__ = ["trace_onnx_rows"]

# For other free dimensions: a size that networks can take that halve an image a few times, and its multiples.
FREE_SIZE = 64
# Shape inference reads the values of small tensors only: target shapes, axes, pads.
SMALL_BYTES = 4096


def trace_onnx_rows(model: onnx.ModelProto, inputs: Collection[str]) -> Rows:
    """`trace_rows` of an ONNX model.

    Args:
        model: with a free first dimension in each of `inputs`. It is changed: it loses its shapes and large weights.
        inputs: the names of the inputs that are not initializers.
    """
    graph = model.graph
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    for weights in graph.initializer:
        if weights.ByteSize() > SMALL_BYTES:
            weights.ClearField("raw_data")
            weights.ClearField("float_data")
    rows = _settle_free_dimensions(graph, inputs)

    def infer(batches: Mapping[str, int]) -> list[Shape] | None:
        for name, dim in rows.items():
            dim.dim_value = batches[name]
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return None
        return [
            [dim.dim_value if dim.HasField("dim_value") else None for dim in output.type.tensor_type.shape.dim]
            for output in inferred.graph.output
        ]

    return trace_rows(infer, inputs)


def _settle_free_dimensions(
    graph: onnx.GraphProto, inputs: Collection[str]
) -> dict[str, onnx.TensorShapeProto.Dimension]:
    """Give every other free dimension of the inputs a size; the first dimension of each of `inputs` is returned."""
    rows = {}
    sizes: dict[str, int] = {}
    for tensor in graph.input:
        for axis, dim in enumerate(tensor.type.tensor_type.shape.dim):
            if axis == 0 and tensor.name in inputs:
                rows[tensor.name] = dim
            elif not dim.HasField("dim_value"):
                # Two names that an exporter made up may be one size; at the same place they probably are.
                name = f"?{axis}" if MADE_UP_NAME.fullmatch(dim.dim_param) else dim.dim_param
                dim.dim_value = sizes.setdefault(name, FREE_SIZE * (len(sizes) + 1))
    return rows
