"""Fewer nodes for the same result: constants folded, what does nothing removed, neighbours fused."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx import inliner

from plansmith_build.engines.freed_memory import return_freed_memory
from plansmith_build.reading.external_data import ExternalRange, read_range
from plansmith_build.reading.networks import (
    Network,
    attach,
    detach,
    weight_size,
    weights_from_inputs,
    weights_to_inputs,
)

if TYPE_CHECKING:
    import onnx

    from plansmith_build.reading.networks import Weight

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
            source = attach(network, leave=held_back)
            apart = weights_to_inputs(source, held_back)
            if source.functions:
                source = inliner.inline_local_functions(source)
            slim: onnx.ModelProto = onnxslim.slim(source, size_threshold=LARGEST_FOLDED_BYTES)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise OptimizationFailed(f"the optimiser failed: {type(error).__name__}: {said}") from error
    finally:
        logger.setLevel(before)
    model = network.model
    weights_from_inputs(slim, apart)
    _keep_interface(model, slim)
    slim.ir_version = model.ir_version
    slim.producer_name, slim.producer_version = model.producer_name, model.producer_version
    optimized = detach(slim, {name: network.weights[name] for name in held_back})
    del slim, source
    # What the optimiser's copies took: glibc would keep it, for the next who asks.
    return_freed_memory()
    return replace(optimized, weights={**optimized.weights, **_unchanged(optimized, network)})


def _unchanged(optimized: Network, network: Network) -> dict[str, Weight]:
    """The weights in files that are as they were, which need not be held in memory."""
    return {
        name: place
        for name, place in network.weights.items()
        if isinstance(place, ExternalRange)
        and isinstance(optimized.weights.get(name), bytes)
        and read_range(place) == optimized.weights[name]
    }


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
        del after[:]
        after.extend(before)
