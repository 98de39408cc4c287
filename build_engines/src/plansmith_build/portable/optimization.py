"""Fewer nodes for the same result: constants folded, what does nothing removed, neighbours fused."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING

from onnx import inliner
from onnx.helper import make_tensor_value_info

from plansmith_build.reading.graphs import nodes_of
from plansmith_build.reading.networks import Network, attach, detach, weight_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

__all__ = ["OptimizationFailed", "obstacle_to_optimization", "optimize"]

# A constant that a node computes is written out only where it is small: light-weight models build hundreds of
# megabytes of weights from a few bytes, and the file should not grow by that much.
LARGEST_FOLDED_BYTES = 64 * 2**10
# The optimiser holds several copies of the weights and needs the values of the small ones only: beyond this total,
# the largest are not given to it.
GIVEN_BYTES = 256 * 2**20


class OptimizationFailed(Exception):
    """The optimiser failed on a graph; the text says how, and the graph is used as it was."""


def obstacle_to_optimization(network: Network) -> str:
    """Why a graph is not handed to the optimiser, or an empty string."""
    model = network.model
    defaults = {tensor.name for tensor in model.graph.initializer}
    overridable = [value.name for value in model.graph.input if value.name in defaults]
    if overridable:
        return f"the optimiser would make the optional input {overridable[0]!r} a constant"
    return ""


def optimize(network: Network) -> Network:
    """A simpler graph, made by onnxslim.

    Inputs, outputs, their names and types stay as they are.

    Raises:
        OptimizationFailed: it failed, or gave a graph with other inputs or outputs.
    """
    import onnxslim  # noqa: PLC0415 - it takes longer to import than most models take to build

    logger = logging.getLogger("onnxslim")
    before = logger.level
    # Without one it would bring its own, bound to the stream that is standard error at that moment.
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    try:
        # It prints what it finds strange; whether the result is right is decided by verification.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            held_back = _largest_weights(network)
            source = _with_inputs(attach(network, leave=held_back), held_back)
            if source.functions:
                source = inliner.inline_local_functions(source)
            slim: onnx.ModelProto = onnxslim.slim(source, size_threshold=LARGEST_FOLDED_BYTES)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise OptimizationFailed(f"the optimiser failed: {type(error).__name__}: {said}") from error
    finally:
        logger.setLevel(before)
    model = network.model
    _without_inputs(slim, {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in held_back})
    _keep_interface(model, slim)
    slim.ir_version = model.ir_version
    slim.producer_name, slim.producer_version = model.producer_name, model.producer_version
    return detach(slim, {name: network.weights[name] for name in held_back})


def _largest_weights(network: Network) -> frozenset[str]:
    """The largest weights, as many as must be left out for the rest to be small enough."""
    by_size = sorted((weight_size(weight), name) for name, weight in network.weights.items())
    total = 0
    held_back = set()
    for size, name in by_size:
        total += size
        if total > GIVEN_BYTES:
            held_back.add(name)
    return frozenset(held_back)


def _with_inputs(model: onnx.ModelProto, held_back: frozenset[str]) -> onnx.ModelProto:
    """The weights that are held back as inputs, of which an optimiser knows the shape and not the values."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in held_back]
    for tensor in model.graph.initializer:
        if tensor.name in held_back:
            model.graph.input.append(make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _without_inputs(model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> None:
    """The reverse, for the weights that are still used."""
    used = {name for node in nodes_of(model) for name in node.input}
    used.update(value.name for value in model.graph.output)
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)


def _keep_interface(model: onnx.ModelProto, slim: onnx.ModelProto) -> None:
    """Put back inputs that nothing reads, and declare inputs and outputs as they were declared."""
    for role, before, after in [
        ("outputs", model.graph.output, slim.graph.output),
        ("inputs", model.graph.input, slim.graph.input),
    ]:
        names = [value.name for value in before]
        missing = set(names) - {value.name for value in after}
        added = {value.name for value in after} - set(names)
        if added or (missing and role == "outputs"):
            raise OptimizationFailed(f"the optimiser changed the {role}: {', '.join(sorted(missing | added))}")
        declared = [_copy_value(value) for value in before]
        del after[:]
        after.extend(declared)


def _copy_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = type(value)()
    copy.CopyFrom(value)
    return copy
