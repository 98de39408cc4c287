"""What a graph tells of the values of its inputs and outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto

from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    import onnx

__all__ = ["IntegerRange", "final_tensors", "inputs_with_missing_values", "integer_ranges", "sigmoid_outputs"]

_WHOLE_NUMBERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8}
_WHOLE_NUMBERS |= {TensorProto.UINT64, TensorProto.UINT32, TensorProto.UINT16, TensorProto.UINT8}
_SHAPING = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
# They hand on the same numbers, in another shape or type.
_PASSING = {*_SHAPING, "Expand", "Slice", "Tile"}
# A divisor is at least 1, and small, so that quotients and remainders differ.
_DIVIDING = {"Div", "Mod"}
_DIVISORS_BELOW = 10
_MASK = re.compile(r"mask", re.IGNORECASE)
_LENGTH = re.compile(r"(^|_|\.)(len|lens|length|lengths)($|_|\.|\d)|(^|_)num_(frames|tokens)$", re.IGNORECASE)
# Trees have a branch for NaN, and these are made to find it.
_TAKING_NAN = {"Imputer", "IsNaN", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}
_PASSING_NAN = {*_SHAPING, "ArrayFeatureExtractor", "Concat", "FeatureVectorizer", "Gather", "Slice", "Split"}
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class IntegerRange:
    """The numbers from `low` to below `below`; `below` None is the size of the axis that they count."""

    low: int
    below: int | None


def integer_ranges(model: onnx.ModelProto) -> dict[str, IntegerRange]:
    """The range of each input of whole numbers that shows one.

    An input that indexes a table (Gather) stays below the table's size, and one that divides (Div, Mod) is not 0. One
    that is called a mask is 0 or 1, one that is called a length is from 1 to the size of the axes that vary.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    names = [name for name, kind in types.items() if kind in _WHOLE_NUMBERS]
    origins = {name: name for name in names}
    tables = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sizes: dict[str, int] = {}
    divisors = set()
    for node in model.graph.node:
        if standard_domain(node.domain) or not node.input:
            continue
        if node.op_type in _PASSING and node.input[0] in origins:
            origins[node.output[0]] = origins[node.input[0]]
        if node.op_type in _DIVIDING and node.input[1] in origins:
            divisors.add(origins[node.input[1]])
        if node.op_type in {"Gather", "GatherElements"} and node.input[1] in origins and node.input[0] in tables:
            shape, origin = tables[node.input[0]], origins[node.input[1]]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            sizes[origin] = min(shape[axis], sizes.get(origin, shape[axis]))
    ranges = {name: _range_of(name, sizes.get(name), divides=name in divisors) for name in names}
    return {name: found for name, found in ranges.items() if found is not None}


def _range_of(name: str, size: int | None, *, divides: bool) -> IntegerRange | None:
    if size is not None:
        return IntegerRange(0, size)
    if divides:
        return IntegerRange(1, _DIVISORS_BELOW)
    if _MASK.search(name):
        return IntegerRange(0, 2)
    return IntegerRange(1, None) if _LENGTH.search(name) else None


def inputs_with_missing_values(model: onnx.ModelProto) -> frozenset[str]:
    """The inputs that nodes read which know what to do with NaN: trees, imputers and tests for it."""
    origins = {value.name: {value.name} for value in model.graph.input}
    found: set[str] = set()
    for node in model.graph.node:
        read = set().union(*(origins.get(name, set()) for name in node.input))
        if node.op_type in _TAKING_NAN:
            found |= read
        if node.op_type in _PASSING_NAN:
            origins.update((name, read) for name in node.output)
    return frozenset(found)


def sigmoid_outputs(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs whose values come from a sigmoid and were only reshaped since."""
    makers = _makers(model)
    found = set()
    for output in model.graph.output:
        node = makers.get(output.name)
        while node is not None and node.op_type in _SHAPING:
            node = makers.get(node.input[0])
        if node is not None and node.op_type in {"Sigmoid", "HardSigmoid"}:
            found.add(output.name)
    return frozenset(found)


def final_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs, and what becomes an output without passing another layer with weights.

    What such tensors join may be of different scales, such as boxes in pixels and scores from 0 to 1, and a sigmoid or
    softmax stretches what was rounded before it. Behind a sum or product only what a layer itself gives counts: the
    chain of residual sums of a whole network is not its end.
    """
    makers = _makers(model)
    waiting = [output.name for output in model.graph.output]
    found = set(waiting)
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.op_type in _WEIGHTED:
            continue
        fresh = {name for name in node.input if name and name not in found}
        if node.op_type in {"Add", "Mul"}:
            fresh = {name for name in fresh if (maker := makers.get(name)) is not None and maker.op_type in _WEIGHTED}
        waiting += fresh
        found |= fresh
    return frozenset(found)


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node if not standard_domain(node.domain) for name in node.output}
