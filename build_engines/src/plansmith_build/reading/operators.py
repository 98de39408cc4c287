"""Whether the installed ONNX Runtime has the operators that a graph uses."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from plansmith_build.errors import InvalidModel, UnsupportedOperator
from plansmith_build.reading.graphs import node_label, nodes_of, operator_name, standard_domain

if TYPE_CHECKING:
    import onnx

__all__ = ["check_operators", "explain_refusal", "runtime_sentence"]


def check_operators(model: onnx.ModelProto) -> None:
    """Check that each operator is ONNX Runtime's, or one of the model's own functions.

    Raises:
        UnsupportedOperator: one is neither; the message names the node and the operator's domain.
    """
    own = {(standard_domain(function.domain), function.name) for function in model.functions}
    for node in nodes_of(model):
        key = (standard_domain(node.domain), node.op_type)
        if key in own or key in _operators():
            continue
        where = f"of the domain {key[0]!r}" if key[0] else "of the standard domain"
        raise UnsupportedOperator(
            f"node {node_label(node)} uses the operator {node.op_type!r} {where}, which ONNX Runtime "
            f"{onnxruntime.__version__} does not have: export the model without it"
        )


def explain_refusal(model: onnx.ModelProto, error: Exception) -> InvalidModel:
    """The error to raise when ONNX Runtime does not load a model whose operators it knows."""
    said = str(error)
    missing = re.search(r"Could not find an implementation for (\w+)\((\d+)\) node with name '([^']*)'", said)
    if missing:
        op_type, since, name = missing.groups()
        node = next((n for n in nodes_of(model) if n.op_type == op_type and n.name == name), None)
        label = node_label(node) if node else repr(name)
        operator = operator_name(node) if node else op_type
        return UnsupportedOperator(
            f"node {label} uses the operator {operator!r} (version {since}) on a data type for which ONNX Runtime "
            f"{onnxruntime.__version__} has no CPU implementation: export the model in another type or operator set"
        )
    return InvalidModel(f"ONNX Runtime {onnxruntime.__version__} does not load the model: {runtime_sentence(said)}")


def runtime_sentence(said: str) -> str:
    """ONNX Runtime's message without its codes, paths, source files and signatures."""
    said = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(said.split()))
    said = re.sub(r"^Load model from \S+ failed: ?", "", said)
    said = re.sub(r"/\S+\.(?:cc|h):\d+ \S.*? was false\. ", "", said)
    return re.sub(r"/\S+\.(?:cc|h):\d+ \S.*?\) (?=[A-Z])", "", said)[:500]


@cache
def _operators() -> frozenset[tuple[str, str]]:
    schemas = onnxruntime_pybind11_state.get_all_operator_schema()
    return frozenset((standard_domain(schema.domain), schema.name) for schema in schemas)
