"""Making a graph that was exported for a fixed number of rows take any number.

What is written here is only a proposal: verification decides whether the new graph computes, row by
row, what the old one computes.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from plansmith_build.portable.repair import infer_shapes
from plansmith_build.reading.graphs import consumed_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["make_batch_dynamic", "name_rows"]

BATCH_SYMBOL = "batch"


def make_batch_dynamic(model: onnx.ModelProto, *, rows: int) -> tuple[onnx.ModelProto, int]:
    """A copy of the model whose first dimension is free.

    The first dimension of every input and output gets a name instead of a number; a Reshape whose constant target
    begins with the number of rows (or with a multiple that comes from merging it with the dimension after it) is
    given a target that works it out; the shapes in between are inferred again.

    Returns:
        The new model, and how many Reshape nodes were rewritten.
    """
    dynamic = deepcopy(model)
    graph = dynamic.graph
    shapes = _static_shapes(graph)
    rewritten = _rewrite_reshapes(graph, shapes, rows)

    name_rows(dynamic)
    del graph.value_info[:]
    return infer_shapes(dynamic), rewritten


def name_rows(model: onnx.ModelProto) -> None:
    """Give the first dimension of every input and output one name, in place: servers read from it that it is one."""
    graph = model.graph
    shapes = [value.type.tensor_type.shape.dim for value in [*graph.input, *graph.output]]
    names = {shape[0].dim_param if shape else "" for shape in shapes}
    if len(names) == 1 and "" not in names:
        return
    others = {d.dim_param for value in graph.input for d in value.type.tensor_type.shape.dim[1:]}
    symbol = BATCH_SYMBOL if BATCH_SYMBOL not in others else f"{BATCH_SYMBOL}_rows"
    for value in [*graph.input, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and tensor.shape.dim:
            tensor.shape.dim[0].dim_param = symbol


def _rewrite_reshapes(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], rows: int) -> int:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    varying = {value.name for value in graph.input}
    rewritten = 0
    for node in graph.node:
        if varying.isdisjoint(consumed_names(node)):
            continue
        varying.update(node.output)
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[0] not in varying:  # noqa: PLR2004
            continue
        target = constants.get(node.input[1])
        if target is None or target.data_location == onnx.TensorProto.EXTERNAL:
            continue
        old = numpy_helper.to_array(target)
        new = _free_target(old, shapes.get(node.input[0]), shapes.get(node.output[0]), rows)
        if new is None:
            continue
        name = f"{node.output[0]}__target"
        graph.initializer.append(numpy_helper.from_array(new, name))
        node.input[1] = name
        rewritten += 1
    return rewritten


def _free_target(
    target: np.ndarray[tuple[int], np.dtype[np.int64]],
    data: tuple[int, ...] | None,
    result: tuple[int, ...] | None,
    rows: int,
) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """The same target with its first number left open, or None where there is nothing to open."""
    if target.ndim != 1 or not target.size or target[0] <= 0 or target[0] % rows:
        return None
    free = target.copy()
    if data is not None and result is not None and len(result) == target.size:
        # All sizes are known, so the one that a -1 stood for can be written down and the -1 moved to the front. A
        # zero in `result` or elsewhere in `data` would make that ambiguous.
        free[:] = result
        free[0] = -1
        return free if 0 not in result else None
    if target[0] != rows:
        return None
    # Another dimension is worked out already: the first is copied from the data.
    free[0] = 0 if (free == -1).any() else -1
    return free


def _static_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes
