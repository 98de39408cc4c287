"""torch.onnx's dynamo exporter: the call, what comes out of it, and what it says when it fails."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx

from plansmith_build.exporting.errors import ExportFailed
from plansmith_build.exporting.frameworks import require
from plansmith_build.reading.graphs import direct_subgraphs, nodes_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["finish_file", "first_lines", "write_file"]

_OUTPUT = "plansmith_output_"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def write_file(
    module: Any,
    tensors: Sequence[Any],
    keywords: Sequence[str],
    made: Path,
    *,
    shapes: Any,
    opset: int | None,
    input_names: Sequence[str] | None,
    outputs: int,
    external: bool,
) -> None:
    """Export a module to a file.

    Args:
        module: in evaluation mode, or a program.
        tensors: the examples, in the order of the parameters.
        keywords: the names by which they are passed; empty where they are passed by position.
        made: the file to write; weights that are external go to a file next to it.
        shapes: what `torch.onnx.export` takes as `dynamic_shapes`.
        opset: operator set of the standard domain, None for the exporter's choice.
        input_names: None for the names of the parameters.
        outputs: how many there are; `finish_file` gives them their names.
        external: whether the weights go to a file of their own.

    Raises:
        ExportFailed: torch cannot do it.
    """
    torch = require("torch")
    positional = () if keywords else tuple(tensors)
    named = dict(zip(keywords, tensors, strict=True)) if keywords else None
    try:
        written = torch.onnx.export(
            module,
            positional,
            kwargs=named,
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=opset,
            input_names=list(input_names) if input_names is not None else None,
            # Names that no operator has: torch.onnx names values after operators and would take one of them twice.
            output_names=[f"{_OUTPUT}{number}" for number in range(outputs)],
            verbose=False,
        )
        written.save(made, external_data=external)
    except Exception as error:
        raise ExportFailed(
            f"torch.onnx cannot export the module: {_reason(error, dynamic=shapes is not None)}"
        ) from error


def finish_file(made: Path, output_names: Sequence[str], *, batch: bool, opset: int | None) -> list[str]:
    """Give the outputs their names, call the batch dimension `batch`, and tell the names of the inputs.

    Args:
        made: the file that `write_file` wrote.
        output_names: in the order of the outputs.
        batch: whether the first dimension of the inputs is that of a batch.
        opset: the operator set that was asked for, None for any.

    Raises:
        ExportFailed: the file is of another operator set than was asked for.
    """
    model = onnx.load(made, load_external_data=False)
    for imported in model.opset_import:
        if opset is not None and imported.domain == "" and imported.version != opset:
            raise ExportFailed(
                f"torch.onnx wrote operator set {imported.version}, which it cannot convert to {opset}: "
                f"ask for {imported.version}, or for none"
            )
    if batch:
        symbols = {
            value.type.tensor_type.shape.dim[0].dim_param
            for value in model.graph.input
            if value.type.tensor_type.shape.dim
        } - {""}
        if len(symbols) == 1:
            _rename_symbol(model, symbols.pop(), "batch")
    _rename_outputs(model, output_names)
    onnx.save(model, made)
    return [value.name for value in model.graph.input]


def _rename_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the outputs these names; a value inside the graph that has one of them makes way."""
    renamed = {value.name: name for value, name in zip(model.graph.output, names, strict=True)}
    renamed |= {name: f"{_OUTPUT}{name}" for name in names if name not in renamed}
    for node in nodes_of(model):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    graphs = [model.graph, *(graph for node in nodes_of(model) for graph in direct_subgraphs(node))]
    values = [value for graph in graphs for value in (*graph.output, *graph.value_info)]
    named: Sequence[Any] = [*values, *tensors_of(model)]
    for value in named:
        value.name = renamed.get(value.name, value.name)


def _rename_symbol(model: onnx.ModelProto, old: str, new: str) -> None:
    word = re.compile(rf"\b{re.escape(old)}\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = word.sub(new, dimension.dim_param)


def _reason(error: BaseException, *, dynamic: bool) -> str:
    """The innermost cause in one sentence: torch wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = first_lines(str(error))
    fixed = any(words in str(error) for words in ("Constraints violated", "specialized", "static shape"))
    advice = " The module fixes a size that was to be dynamic: export it without a dynamic batch"
    return f"{type(error).__name__}: {said}{advice if dynamic and fixed else ''}"


def first_lines(text: str) -> str:
    """What a message begins with, as one line without colours."""
    lines = [line.strip() for line in _ANSI.sub("", text).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300]
