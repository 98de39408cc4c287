"""Which whole numbers an input takes, read off the graph and the input's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto

from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    import onnx

__all__ = ["IntegerRange", "integer_ranges"]

_WHOLE_NUMBERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8}
_WHOLE_NUMBERS |= {TensorProto.UINT64, TensorProto.UINT32, TensorProto.UINT16, TensorProto.UINT8}
# They hand on the same numbers, in another shape or type.
_PASSING = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
# A divisor is at least 1, and small, so that quotients and remainders differ.
_DIVIDING = {"Div", "Mod"}
_DIVISORS_BELOW = 10
_MASK = re.compile(r"mask", re.IGNORECASE)
_LENGTH = re.compile(r"(^|_|\.)(len|lens|length|lengths)($|_|\.|\d)|(^|_)num_(frames|tokens)$", re.IGNORECASE)


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
