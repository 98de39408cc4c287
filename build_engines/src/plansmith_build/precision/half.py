"""FP16 and BF16: casts put into the graph, inputs and outputs left as they are; branches and bodies are converted, too.

In each graph a value keeps its name in FP32, and has a second name in 16 bits where a node wants it so. Which inputs of
an operator may have 16 bits is read in ONNX's own definition of it.
"""

from __future__ import annotations

from copy import deepcopy
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from plansmith_build.precision.errors import failing_as
from plansmith_build.reading.graphs import direct_subgraphs, standard_domain
from plansmith_build.reading.networks import (
    ConvertedWeight,
    Network,
    weights_apart,
    weights_from_inputs,
    weights_to_inputs,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    Array = np.ndarray[Any, np.dtype[Any]]

# Large weights of a network stay where they are, and are rounded as they are written.
Graph = TypeVar("Graph", onnx.ModelProto, Network)

__all__ = ["Graph", "HalfType", "convertible_nodes", "rounded", "to_bfloat16", "to_float16"]


class HalfType(IntEnum):
    """A number of 16 bits, by its TensorProto.DataType."""

    FLOAT16 = 10
    BFLOAT16 = 16


LARGEST_FLOAT16 = 65504.0
SMALLEST_FLOAT16 = 2.0**-24

# In FP32 whatever ONNX allows: they select, count or place, which 16 bits do not resolve, or runtimes lack them.
_EXACT = {"CumSum", "Max", "Min", "NonMaxSuppression", "Range", "Resize", "RoiAlign", "TopK", "Upsample"}
# They say nothing that depends on the precision of what they read.
_INDIFFERENT = {"Cast", "Shape", "Size"}
_STRINGS = {HalfType.FLOAT16: "tensor(float16)", HalfType.BFLOAT16: "tensor(bfloat16)"}


def convertible_nodes(graph: Graph) -> tuple[str, ...]:
    """The names of the nodes that can compute in 16 bits, those in branches and bodies included."""
    plan = _Plan(graph.model if isinstance(graph, Network) else graph, HalfType.FLOAT16, frozenset())
    return tuple(dict.fromkeys(plan.names))


def to_float16(graph: Graph, *, keep: Collection[str] = ()) -> Graph:
    """A copy that computes in FP16.

    Args:
        graph: from `preparation.prepare` or `prepare_apart`.
        keep: names of nodes that compute in FP32.

    Raises:
        ConversionFailed: the result is not a valid model.
    """
    return _converted(graph, HalfType.FLOAT16, keep, simulated=False)


def to_bfloat16(graph: Graph, *, keep: Collection[str] = ()) -> Graph:
    """A copy that computes in BF16, which ONNX Runtime's CPU provider does not run: see `rounded`.

    Args:
        graph: from `preparation.prepare` or `prepare_apart`, of operator set `BFLOAT16_OPSET` or later.
        keep: names of nodes that compute in FP32.

    Raises:
        ConversionFailed: the result is not a valid model.
    """
    return _converted(graph, HalfType.BFLOAT16, keep, simulated=False)


def rounded(graph: Graph, number: HalfType, *, keep: Collection[str] = ()) -> Graph:
    """What `to_float16` or `to_bfloat16` computes, on a runtime that has no such arithmetic.

    FP32 arithmetic, each weight and each result rounded: that is what an accelerator does that accumulates in FP32.
    ONNX Runtime's CPU provider runs FP16 graphs, too, but in FP32 from node to node, so that no overflow shows. This
    one must not be optimised by it.

    Args:
        graph: from `preparation.prepare` or `prepare_apart`.
        number: what to round to.
        keep: names of nodes that compute in FP32.
    """
    return _converted(graph, number, keep, simulated=True)


def _converted(graph: Graph, number: HalfType, keep: Collection[str], *, simulated: bool) -> Graph:
    copy = deepcopy(graph.model if isinstance(graph, Network) else graph)
    plan = _Plan(copy, number, frozenset(keep))
    _Graph(copy.graph, None, plan, simulated=simulated).convert()
    model = copy if simulated else _checked(copy, "FP16" if number is HalfType.FLOAT16 else "BF16")
    if isinstance(graph, onnx.ModelProto):
        return model  # type: ignore[return-value] # checked once for each type that a graph may have
    weights = dict(graph.weights)
    for name, source in plan.rounded_apart.items():
        convert = partial(_round_to, number=number, simulated=simulated)
        weights[name] = ConvertedWeight(graph.weights[source], convert, 4 if simulated else 2)  # type: ignore[arg-type]
    return Network(model, {name: weights[name] for name in weights_apart(model)})


class _Plan:
    """Which nodes compute in 16 bits, and which constants somebody wants in FP32 all the same."""

    def __init__(self, model: onnx.ModelProto, number: HalfType, keep: frozenset[str]) -> None:
        self.number = number
        self.names: list[str] = []
        self.wanted_wide: set[str] = set()
        # Large weights that are rounded when they are written, and what they are rounded from.
        self.rounded_apart: dict[str, str] = {}
        self._keep = keep
        self._versions = {standard_domain(entry.domain): entry.version for entry in model.opset_import}
        self._chosen: dict[int, tuple[frozenset[int], frozenset[int]]] = {}
        self._held: list[onnx.NodeProto] = []
        self._walk(model.graph, {})

    def halves(self, node: onnx.NodeProto) -> tuple[frozenset[int], frozenset[int]] | None:
        """The positions of inputs and outputs that have 16 bits; None for a node that stays as it is."""
        return self._chosen.get(id(node))

    def _walk(self, graph: onnx.GraphProto, outer: dict[str, int]) -> None:
        types = {**outer, **_types(graph)}
        self.wanted_wide.update(value.name for value in (*graph.input, *graph.output))
        for node in graph.node:
            # Held on to: a message has the same identity for as long as somebody holds it, and no longer.
            self._held.append(node)
            chosen = self._positions(node, types)
            if chosen is not None:
                self.names.append(node.name)
                if node.name not in self._keep:
                    self._chosen[id(node)] = chosen
            narrow = self._chosen.get(id(node), (frozenset(), frozenset()))[0]
            if node.op_type not in _INDIFFERENT:
                self.wanted_wide.update(name for place, name in enumerate(node.input) if place not in narrow)
            for inner in direct_subgraphs(node):
                self._walk(inner, types)

    def _positions(self, node: onnx.NodeProto, types: dict[str, int]) -> tuple[frozenset[int], frozenset[int]] | None:
        if standard_domain(node.domain) or node.op_type in _EXACT or any(direct_subgraphs(node)):
            return None
        if node.op_type in _INDIFFERENT:
            # A cast of whole numbers; what is cast from FP32 to something else reads whichever there is.
            makes = any(entry.name == "to" and entry.i == TensorProto.FLOAT for entry in node.attribute)
            return (frozenset(), frozenset({0})) if makes and types.get(node.input[0]) != TensorProto.FLOAT else None
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get("", 1), "")
        except onnx.defs.SchemaError:
            return None
        allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
        variables = [_variable(schema.inputs, place) for place in range(len(node.input))]
        given = [types.get(name, 0) if name else None for name in node.input]
        if any(kind == 0 and variable in allowed for kind, variable in zip(given, variables, strict=True)):
            return None
        narrow = {
            variable
            for kind, variable in zip(given, variables, strict=True)
            if kind == TensorProto.FLOAT and variable in allowed
        }
        if not narrow or any(_STRINGS[self.number] not in allowed[variable] for variable in narrow):
            return None
        floats = [place for place, kind in enumerate(given) if kind == TensorProto.FLOAT]
        return (
            frozenset(place for place in floats if variables[place] in narrow),
            frozenset(place for place in range(len(node.output)) if _variable(schema.outputs, place) in narrow),
        )


class _Graph:
    """One graph that is being converted, in place, with those around it."""

    def __init__(self, graph: onnx.GraphProto, outer: _Graph | None, plan: _Plan, *, simulated: bool) -> None:
        self._graph, self.outer, self._plan, self._simulated = graph, outer, plan, simulated
        defaults = {value.name for value in graph.input}
        self._constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in defaults}
        self.made: list[onnx.NodeProto] = []
        # Names in 16 bits, and names that exist in FP32.
        self.narrow: dict[str, str] = {}
        self.wide = {*self._constants, *(value.name for value in graph.input)}

    def convert(self) -> None:
        nodes = list(self._graph.node)
        for node in nodes:
            halves = self._plan.halves(node)
            if halves is None:
                self._keep(node)
            else:
                self._convert(node, *halves)
        for value in self._graph.output:
            self._widen(value.name)
        made = deepcopy(self.made)
        del self._graph.node[:]
        self._graph.node.extend(made)
        del self._graph.value_info[:]

    def _keep(self, node: onnx.NodeProto) -> None:
        for place, name in enumerate(node.input):
            if node.op_type in _INDIFFERENT:
                node.input[place] = self._either(name)
            else:
                self._widen(name)
        for inner in direct_subgraphs(node):
            _Graph(inner, self, self._plan, simulated=self._simulated).convert()
        if node.op_type == "Constant" and node.output[0] not in self._plan.wanted_wide:
            tensor = next((entry.t for entry in node.attribute if entry.name == "value"), None)
            if tensor is not None and tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(self._rounded(tensor))
                self.narrow[node.output[0]] = node.output[0]
                self.made.append(node)
                return
        self.wide.update(node.output)
        self.made.append(node)

    def _convert(self, node: onnx.NodeProto, inputs: frozenset[int], outputs: frozenset[int]) -> None:
        for place, name in enumerate(node.input):
            if place in inputs:
                node.input[place] = self._narrowed(name)
            elif name:
                self._widen(name)
        if node.op_type == "Cast" and not self._simulated:
            next(entry for entry in node.attribute if entry.name == "to").i = self._plan.number
        after = []
        for place, name in enumerate(node.output):
            if place not in outputs:
                self.wide.add(name)
            elif name and self._simulated:
                node.output[place] = f"{name}/exact"
                after += _round_tensor(name, f"{name}/exact", name, self._plan.number)
                self.narrow[name] = name
                self.wide.add(name)
            elif name:
                node.output[place] = self.narrow[name] = f"{name}/half"
        self.made += [node, *after]

    def _owner(self, name: str) -> _Graph | None:
        graph: _Graph | None = self
        while graph is not None and name not in graph.wide and name not in graph.narrow:
            graph = graph.outer
        return graph

    def _either(self, name: str) -> str:
        owner = self._owner(name)
        return name if owner is None or name in owner.wide else owner.narrow[name]

    def _widen(self, name: str) -> None:
        """See to it that a value exists in FP32, where it is made."""
        owner = self._owner(name)
        if owner is not None and name not in owner.wide:
            owner.made.append(
                helper.make_node("Cast", [owner.narrow[name]], [name], name=f"{name}/to_float", to=TensorProto.FLOAT)
            )
            owner.wide.add(name)

    def _narrowed(self, name: str) -> str:
        """The name of a value in 16 bits, which is made where the value is."""
        owner = self._owner(name)
        return owner.make_narrow(name) if owner is not None else name

    def make_narrow(self, name: str) -> str:
        if name in self.narrow:
            return self.narrow[name]
        constant = self._constants.get(name)
        number = self._plan.number
        if constant is not None and name not in self._plan.wanted_wide:
            self.narrow[name] = name
            constant.CopyFrom(self._rounded(constant))
            return name
        narrow = self.narrow[name] = f"{name}/half"
        if constant is not None:
            copy = self._rounded(constant, narrow)
            self._graph.initializer.append(copy)
        elif self._simulated:
            self.made += _round_tensor(narrow, name, narrow, number)
        else:
            self.made.append(helper.make_node("Cast", [name], [narrow], name=f"{name}/to_half", to=number.value))
        return narrow

    def _rounded(self, tensor: onnx.TensorProto, name: str = "") -> onnx.TensorProto:
        """A constant in 16 bits."""
        number, name = self._plan.number, name or tensor.name
        if tensor.data_location != TensorProto.EXTERNAL:
            values = _round_to(numpy_helper.to_array(tensor), number=number, simulated=self._simulated)
            return numpy_helper.from_array(values, name)
        self._plan.rounded_apart[name] = tensor.name
        copy = deepcopy(tensor)
        copy.name = name
        copy.data_type = TensorProto.FLOAT if self._simulated else number.value
        return copy


def _variable(formals: Any, place: int) -> str:
    """The type variable of an input or output, such as `T`; the last may stand for any number."""
    return formals[min(place, len(formals) - 1)].type_str if formals else ""


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    values = [*graph.value_info, *graph.input, *graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _round_to(values: Array, *, number: HalfType, simulated: bool) -> Array:
    """In 16 bits, or the same numbers in FP32."""
    narrow = _round(values, number)
    return narrow.astype(np.float32) if simulated else narrow


def _round(values: Array, number: HalfType) -> Array:
    """In 16 bits: no number becomes infinite, and none but 0 becomes 0, which something may be divided by."""
    if number is HalfType.BFLOAT16:
        return values.astype(ml_dtypes.bfloat16)
    limited = np.where(np.isinf(values), values, np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16))
    tiny = (limited != 0) & (np.abs(limited) < SMALLEST_FLOAT16)
    return np.where(tiny, np.copysign(np.float32(SMALLEST_FLOAT16), limited), limited).astype(np.float16)


def _round_tensor(label: str, source: str, target: str, number: HalfType) -> list[onnx.NodeProto]:
    # ONNX Runtime takes a cast there and back for its own and drops both, unless something stands between them.
    narrow, apart = f"{label}/narrow", f"{label}/apart"
    return [
        helper.make_node("Cast", [source], [narrow], name=f"{label}/to_half", to=number.value),
        helper.make_node("Identity", [narrow], [apart], name=f"{label}/between"),
        helper.make_node("Cast", [apart], [target], name=f"{label}/to_float", to=TensorProto.FLOAT),
    ]


def _checked(converted: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same with shapes, once the specification has nothing against it.

    Raises:
        ConversionFailed: it is not a valid model: a node gets inputs of two types, for example.
    """
    apart = weights_to_inputs(converted, weights_apart(converted))
    with failing_as(f"the graph in {name} is not a valid model"):
        inferred = infer_shapes(converted, strict_mode=False)
        onnx.checker.check_model(inferred, full_check=True)
    return weights_from_inputs(inferred, apart)
