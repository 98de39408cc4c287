"""What a graph tells of its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    import onnx

__all__ = ["final_tensors", "sigmoid_outputs"]

_SHAPING = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


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
