"""Repairs of what is legal in ONNX but trips up later tools and servers; none of them changes a result."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import onnx
import onnxruntime
from onnx import shape_inference, version_converter
from onnx.helper import find_min_ir_version_for

from plansmith_build.errors import InvalidModel
from plansmith_build.progress import plural
from plansmith_build.reading.graphs import nodes_of, standard_domain
from plansmith_build.reading.networks import Network, attach, detach

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Repaired", "infer_shapes", "listed_weights", "newest_supported_opset", "repair"]

# Since IR version 4 an initializer need not be listed as an input, and one that is listed may be overridden.
IR_WITH_DEFAULTS = 4
# From operator set 7 on ONNX Runtime promises to run a model; 13 is the first that the tools after this one all know.
OLDEST_OPSET = 7
TARGET_OPSET = 13


@dataclass(frozen=True)
class Repaired:
    """A repaired network.

    Attributes:
        network: the network.
        repairs: one sentence for each repair.
    """

    network: Network
    repairs: tuple[str, ...]


def repair(network: Network) -> Repaired:
    """Put right what is awkward.

    Raises:
        InvalidModel: the operator set is one that ONNX Runtime does not run, and the model cannot be converted.
    """
    network, repairs = _convert_operator_set(network)
    model = deepcopy(network.model)
    repairs += _unlist_initializers(model)
    repairs += _set_ir_version(model)
    repairs += _open_empty_dimensions(model)
    repairs += _name_nodes(model)
    known = _shapes_known(model)
    model = infer_shapes(model)
    learned = _shapes_known(model) - known
    if learned:
        repairs.append(f"inferred the shape{plural(learned)} of {learned} tensor{plural(learned)}")
    return Repaired(network.with_model(model), tuple(repairs))


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the shapes between its nodes inferred, where they can be."""
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError):
        # Shapes help readers of the graph; verification finds out whether it computes.
        return model


def listed_weights(model: onnx.ModelProto) -> frozenset[str]:
    """The initializers that are listed as inputs only because that was once the rule, or an exporter's habit.

    Before IR version 4 every initializer had to be listed. Since then a listed one is a default that a request may
    override, which is taken at its word unless all of several initializers are listed.
    """
    weights = [tensor.name for tensor in model.graph.initializer]
    listed = frozenset(value.name for value in model.graph.input).intersection(weights)
    habit = model.ir_version < IR_WITH_DEFAULTS or (len(weights) > 1 and listed.issuperset(weights))
    return listed if habit else frozenset()


@cache
def newest_supported_opset() -> int:
    """The newest version of the standard operators that the installed ONNX Runtime runs."""
    low, high = 1, onnx.defs.onnx_opset_version()
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _runs_opset(middle) else (low, middle - 1)
    return low


def _runs_opset(version: int) -> bool:
    # Identity has kernels in every version, so only the version itself can be refused.
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [result])
    probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions have no common base of their own
        return False
    return True


def _convert_operator_set(network: Network) -> tuple[Network, list[str]]:
    version = next((o.version for o in network.model.opset_import if not standard_domain(o.domain)), None)
    if version is None:
        return network, []
    if version >= OLDEST_OPSET:
        newest = newest_supported_opset() if version > TARGET_OPSET else version
        if version <= newest:
            return network, []
        target = newest
    else:
        target = TARGET_OPSET
    try:
        converted = version_converter.convert_version(infer_shapes(attach(network)), target)
    except Exception as error:
        # What an assertion of the converter says begins with the place in its source.
        said = " ".join(str(error).split()).rpartition(" failed: ")[2][:200]
        raise InvalidModel(
            f"the model uses operator set {version}, which ONNX Runtime {onnxruntime.__version__} does not run, and "
            f"it cannot be converted to {target} ({said.rstrip('.')}): export it for {target}"
        ) from error
    return detach(converted), [f"converted operator set {version} to {target}"]


def _unlist_initializers(model: onnx.ModelProto) -> list[str]:
    removable = listed_weights(model)
    if not removable:
        return []
    kept = [value for value in model.graph.input if value.name not in removable]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return [f"removed {len(removable)} weight{plural(len(removable))} from the list of inputs"]


def _set_ir_version(model: onnx.ModelProto) -> list[str]:
    needed = max(find_min_ir_version_for(list(model.opset_import), ignore_unknown=True), IR_WITH_DEFAULTS)
    if model.functions:
        needed = max(needed, 8)  # the first with functions of the model's own
    before = model.ir_version
    newest = max(needed, find_min_ir_version_for([onnx.helper.make_opsetid("", newest_supported_opset())]))
    if before < needed:
        model.ir_version = needed
        return [f"raised the IR version from {before} to {needed}"]
    if before > newest:
        model.ir_version = newest
        return [f"lowered the IR version from {before} to {newest}"]
    return []


def _open_empty_dimensions(model: onnx.ModelProto) -> list[str]:
    """No configuration can say a length of 0, and the server wants the graph to say the same."""
    opened = []
    for value in model.graph.input:
        empty = [d for d in value.type.tensor_type.shape.dim if d.HasField("dim_value") and d.dim_value == 0]
        for dimension in empty:
            dimension.Clear()
        if empty:
            opened.append(f"left the length of input {value.name!r} open, which was declared as 0")
    return opened


def _name_nodes(model: onnx.ModelProto) -> list[str]:
    taken = {node.name for node in nodes_of(model)}
    named = 0
    for node in nodes_of(model):
        if not node.name:
            node.name = next(name for name in _names(node, named) if name not in taken)
            taken.add(node.name)
            named += 1
    return [f"named {named} node{plural(named)}"] if named else []


def _names(node: onnx.NodeProto, start: int) -> Iterator[str]:
    number = start
    while True:
        yield f"{node.op_type}_{number}"
        number += 1


def _shapes_known(model: onnx.ModelProto) -> int:
    values = [*model.graph.value_info, *model.graph.output]
    return sum(value.type.tensor_type.HasField("shape") for value in values)
