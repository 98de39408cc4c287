"""What a graph tells of its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    import onnx

__all__ = ["joining_into_outputs", "sigmoid_outputs"]

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


def joining_into_outputs(model: onnx.ModelProto) -> frozenset[str]:
    """The names of the nodes that join branches into an output, with no layer with weights behind them.

    What they join may be of different scales, such as boxes in pixels and scores from 0 to 1.
    """
    makers = _makers(model)
    found = set()
    waiting = [output.name for output in model.graph.output]
    seen = set(waiting)
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.op_type in _WEIGHTED:
            continue
        if node.op_type in {"Add", "Concat", "Mul"}:
            found.add(node.name)
        if node.op_type not in {"Add", "Mul"}:
            fresh = [name for name in node.input if name not in seen]
            waiting += fresh
            seen.update(fresh)
    return frozenset(found)


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node if not standard_domain(node.domain) for name in node.output}
