"""Weights set to zero: the smallest of all, or two of each four neighbours, which sparse tensor cores skip."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from plansmith_build.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Sparsity", "parse_sparsity", "prunable_nodes", "prune"]

# Axis along which a device multiplies and adds, for which 2:4 is defined: input channels.
_REDUCTION_AXIS = {"Conv": 1, "Gemm": 0, "MatMul": 0}
_PATTERN = 4


@dataclass(frozen=True)
class Sparsity:
    """How weights are pruned.

    Attributes:
        structured: two of each four neighbours along the input channels, for sparse tensor cores
            (https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html); else by magnitude.
        fraction: how many of the weights of a node become zero.
    """

    structured: bool
    fraction: float

    def __str__(self) -> str:
        return "2:4" if self.structured else f"{self.fraction:g} by magnitude"


def parse_sparsity(text: str) -> Sparsity:
    """`2:4`, or the fraction of the weights to prune by magnitude, such as `0.3` or `30%`.

    Raises:
        InvalidOption: it is neither.
    """
    if text.strip() == "2:4":
        return Sparsity(structured=True, fraction=0.5)
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    fraction = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < fraction < 1:
        raise InvalidOption(f"--sparsity {text!r} is unknown: write 2:4, or a fraction such as 0.3 or 30%")
    return Sparsity(structured=False, fraction=fraction)


def prunable_nodes(model: onnx.ModelProto, sparsity: Sparsity) -> tuple[str, ...]:
    """The names of the nodes with FP32 weights that can be pruned so, in the graph's order."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type in _REDUCTION_AXIS
        and (weight := weights.get(node.input[1])) is not None
        and weight.data_type == TensorProto.FLOAT
        and (not sparsity.structured or weight.dims[_axis(node)] % _PATTERN == 0)
    )


def prune(model: onnx.ModelProto, sparsity: Sparsity, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy with pruned weights.

    Args:
        model: from `preparation.prepare`.
        sparsity: how.
        keep: names of nodes whose weights stay dense.
    """
    copy = deepcopy(model)
    chosen = set(prunable_nodes(model, sparsity)) - set(keep)
    axes = {node.input[1]: _axis(node) for node in copy.graph.node if node.name in chosen}
    # A weight that a dense node reads as well stays dense.
    for node in copy.graph.node:
        if node.name not in chosen:
            for name in node.input:
                axes.pop(name, None)
    for tensor in copy.graph.initializer:
        if tensor.name in axes:
            values = numpy_helper.to_array(tensor)
            pruned = _two_of_four(values, axes[tensor.name]) if sparsity.structured else _smallest(values, sparsity)
            tensor.CopyFrom(numpy_helper.from_array(pruned, tensor.name))
    return copy


def _axis(node: onnx.NodeProto) -> int:
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 1 if transposed else _REDUCTION_AXIS[node.op_type]


def _two_of_four(values: np.ndarray[Any, np.dtype[Any]], axis: int) -> np.ndarray[Any, np.dtype[Any]]:
    moved = np.moveaxis(values, axis, -1)
    groups = moved.reshape(-1, _PATTERN)
    order = np.argsort(np.abs(groups), axis=1, kind="stable")
    pruned = groups.copy()
    np.put_along_axis(pruned, order[:, :2], 0, axis=1)
    return np.ascontiguousarray(np.moveaxis(pruned.reshape(moved.shape), -1, axis))


def _smallest(values: np.ndarray[Any, np.dtype[Any]], sparsity: Sparsity) -> np.ndarray[Any, np.dtype[Any]]:
    count = int(values.size * sparsity.fraction)
    if not count:
        return values
    flat = values.reshape(-1).copy()
    flat[np.argpartition(np.abs(flat), count - 1)[:count]] = 0
    return flat.reshape(values.shape)
