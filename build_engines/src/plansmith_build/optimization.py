"""Fewer nodes for the same result: constants folded, what does nothing removed, neighbours fused."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING

from onnx import inliner

from plansmith_build.external_data import INLINE_BYTES
from plansmith_build.graphs import tensors_of

if TYPE_CHECKING:
    import onnx

__all__ = ["OptimizationFailed", "obstacle_to_optimization", "optimize"]

# A constant that a node computes is written out only where it is small: light-weight models build hundreds of
# megabytes of weights from a few bytes, and a file should not grow by that.
LARGEST_FOLDED_BYTES = 64 * 2**10


class OptimizationFailed(Exception):
    """The optimiser failed on a graph; the text says how, and the graph is used as it was."""


def obstacle_to_optimization(model: onnx.ModelProto) -> str:
    """Why a graph is not handed to the optimiser, or an empty string."""
    if any(tensor.external_data for tensor in tensors_of(model)) or model.ByteSize() > INLINE_BYTES:
        return f"the model is larger than {INLINE_BYTES / 2**30:g} GiB, and the optimiser would hold it several times"
    defaults = {tensor.name for tensor in model.graph.initializer}
    overridable = [value.name for value in model.graph.input if value.name in defaults]
    if overridable:
        return f"the optimiser would make the optional input {overridable[0]!r} a constant"
    return ""


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """A simpler graph, made by onnxslim; `model` itself is not changed.

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
        # It prints what it finds strange; the verification is who judges.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            source = inliner.inline_local_functions(model) if model.functions else _copy(model)
            slim: onnx.ModelProto = onnxslim.slim(source, size_threshold=LARGEST_FOLDED_BYTES)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise OptimizationFailed(f"the optimiser failed: {type(error).__name__}: {said}") from error
    finally:
        logger.setLevel(before)
    _keep_interface(model, slim)
    slim.ir_version = model.ir_version
    slim.producer_name, slim.producer_version = model.producer_name, model.producer_version
    return slim


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


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
