"""Single numbers as Triton carries them: a vector of one."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import onnx

from plansmith_build.portable.repair import TARGET_OPSET
from plansmith_build.reading.graphs import free_name, rename_input, standard_domain

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["vectors_for_scalars"]


def vectors_for_scalars(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy that takes and gives `[1]` where the graph takes and gives a single number, and a sentence for each.

    Triton's tensors have at least one dimension, and its `reshape` cannot take that away where there are no batches.
    """
    copy = deepcopy(model)
    outputs, inputs = _scalars(copy.graph.output), _scalars(copy.graph.input)
    if (outputs or inputs) and not any(not standard_domain(opset.domain) for opset in copy.opset_import):
        copy.opset_import.add(domain="", version=TARGET_OPSET)
    given = {value.name for value in inputs}
    for value in outputs:
        # What the request holds becomes a vector below.
        if value.name not in given:
            _reshape_behind(copy, value.name)
    for value in inputs:
        _reshape_before(copy, value.name)
    for value in (*outputs, *inputs):
        value.type.tensor_type.shape.dim.add(dim_value=1)
    roles = [*((value.name, "output") for value in outputs), *((value.name, "input") for value in inputs)]
    return copy, tuple(f"made {role} {name!r}, a single number, a vector of one" for name, role in roles)


def _scalars(values: Iterable[onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    tensors = [value for value in values if value.type.tensor_type.HasField("shape")]
    return [value for value in tensors if not value.type.tensor_type.shape.dim]


def _reshape_behind(model: onnx.ModelProto, name: str) -> None:
    inner = free_name(model, f"{name}__scalar")
    for node in model.graph.node:
        node.output[:] = [inner if output == name else output for output in node.output]
        rename_input(node, name, inner)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.name = inner
    model.graph.node.append(_reshape(model, inner, name, [1]))


def _reshape_before(model: onnx.ModelProto, name: str) -> None:
    inner = free_name(model, f"{name}__scalar")
    for node in model.graph.node:
        rename_input(node, name, inner)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.dims.append(1)
    model.graph.node.insert(0, _reshape(model, name, inner, []))


def _reshape(model: onnx.ModelProto, source: str, target: str, shape: list[int]) -> onnx.NodeProto:
    constant, node = free_name(model, f"{target}__shape"), free_name(model, f"{target}__reshape")
    model.graph.initializer.append(onnx.helper.make_tensor(constant, onnx.TensorProto.INT64, [len(shape)], shape))
    return onnx.helper.make_node("Reshape", [source, constant], [target], name=node)
