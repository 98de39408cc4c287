"""Ways to walk an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx

__all__ = [
    "consumed_names",
    "direct_subgraphs",
    "free_name",
    "node_label",
    "nodes_of",
    "operator_name",
    "rename_input",
    "standard_domain",
    "tensors_of",
]


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: those of the graph, of the branches and bodies inside it, and of the model's own functions."""
    yield from _nodes(model.graph.node)
    for function in model.functions:
        yield from _nodes(function.node)


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant: initializers, and tensors in attributes, inside branches, bodies and functions as well."""
    for graph in [model.graph, *_subgraphs(nodes_of(model))]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in nodes_of(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def consumed_names(node: onnx.NodeProto) -> set[str]:
    """What a node reads: its inputs, and whatever its branches or bodies take from outside."""
    return {name for inner in _nodes([node]) for name in inner.input if name}


def standard_domain(domain: str) -> str:
    """The empty string for both spellings of the standard operators' domain."""
    return "" if domain == "ai.onnx" else domain


def operator_name(node: onnx.NodeProto) -> str:
    """`Conv`, or `com.microsoft:Gelu` for an operator that is not a standard one."""
    domain = standard_domain(node.domain)
    return f"{domain}:{node.op_type}" if domain else node.op_type


def node_label(node: onnx.NodeProto) -> str:
    """What to call a node in a message, also one without a name."""
    return repr(node.name) if node.name else f"that computes {node.output[0] if node.output else '?'!r}"


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in direct_subgraphs(node):
            yield from _nodes(graph.node)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        yield from direct_subgraphs(node)


def direct_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches or the body of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def free_name(model: onnx.ModelProto, stem: str) -> str:
    """A name that nothing in the graph has yet."""
    taken = {name for node in nodes_of(model) for name in (node.name, *node.input, *node.output)}
    taken.update(tensor.name for tensor in model.graph.initializer)
    name = stem
    while name in taken:
        name += "_"
    return name


def rename_input(node: onnx.NodeProto, old: str, new: str) -> None:
    """In the node and in what its branches and bodies read from outside, unless they have a value of that name."""
    node.input[:] = [new if name == old else name for name in node.input]
    for graph in direct_subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own.update(name for inner in graph.node for name in inner.output)
        if old in own:
            continue
        for inner in graph.node:
            rename_input(inner, old, new)
        for value in graph.output:
            if value.name == old:
                value.name = new
