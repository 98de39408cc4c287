"""Inputs, outputs and batching of a configuration against the ONNX file that it serves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

from plansmith_build.errors import BuildError
from plansmith_build.repository.config import specs_from_config
from plansmith_build.repository.linting.findings import error
from plansmith_build.repository.linting.graphs import read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding
    from plansmith_build.repository.linting.graphs import GraphTensors
    from plansmith_client.tensors import TensorSpec

__all__ = ["check_tensors"]


def check_tensors(context: ConfigContext) -> Iterator[Finding]:
    """Names, types, shapes and batches against the graph, for backends that read ONNX files."""
    if context.backend not in {"onnxruntime", "openvino"}:
        return
    for version in context.served_versions:
        own = replace(context, version=version)
        for _, path in own.files_of(version):
            if path.suffix == ".onnx" and path.is_file():
                yield from _check_file(own, path)


def _check_file(context: ConfigContext, path: Path) -> Iterator[Finding]:
    try:
        graph = read_tensors(path)
    except BuildError as problem:
        where = str(path.relative_to(context.model.path.parent))
        yield error(where, str(problem), "export or build the model again")
        return
    batched = context.completed.max_batch_size > 0
    sides: list[tuple[str, Sequence[Any], Sequence[Any], Mapping[str, TensorSpec]]] = [
        ("input", context.config.input, _states(context, "input"), graph.inputs),
        ("output", context.config.output, _states(context, "output"), graph.outputs),
    ]
    for role, configured, states, specs in sides:
        yield from _check_names(context, role, configured, states, specs)
        tensors = [*configured, *states]
        for number, (tensor, spec) in enumerate(zip(tensors, _specs(tensors, batched=batched), strict=True)):
            # Where the configuration leaves out dims, the server adds those of the graph, but for states.
            has_shape = tensor.name not in graph.shapeless and (number >= len(configured) or len(tensor.dims) > 0)
            if tensor.name in specs and spec is not None:
                yield from _check_tensor(context, role, tensor, spec, specs[tensor.name], has_shape=has_shape)
            if role == "input" and tensor.optional:
                yield from _check_optional(context, tensor, graph)
    if batched and context.backend != "openvino":
        yield from _check_batching(context, graph)


def _states(context: ConfigContext, role: str) -> list[Any]:
    """What a server keeps of a sequence, as the inputs or outputs of a run."""
    kind = model_config_pb2.ModelInput if role == "input" else model_config_pb2.ModelOutput
    return [
        kind(name=getattr(state, f"{role}_name"), data_type=state.data_type, dims=state.dims)
        for state in context.config.sequence_batching.state
    ]


def _check_optional(context: ConfigContext, tensor: Any, graph: GraphTensors) -> Iterator[Finding]:
    if context.completed.max_batch_size > 0:
        yield context.error(
            f"input {tensor.name!r} is optional, which a model with a max_batch_size cannot have",
            "remove optional, or set max_batch_size: 0 and give all inputs and outputs their full dims",
        )
    elif tensor.name in graph.inputs and not graph.inputs[tensor.name].optional:
        yield context.error(
            f"input {tensor.name!r} is optional, and the model has no default for it", "remove optional"
        )


def _specs(configured: Sequence[Any], *, batched: bool) -> list[TensorSpec | None]:
    return [next(iter(specs_from_config([tensor], batched=batched)), None) for tensor in configured]


def _check_names(
    context: ConfigContext,
    role: str,
    configured: Sequence[Any],
    states: Sequence[Any],
    graph: Mapping[str, TensorSpec],
) -> Iterator[Finding]:
    given = {tensor.name for tensor in (*configured, *states)}
    if role == "input":
        given |= {control.name for control in context.config.sequence_batching.control_input}
    for name in sorted(given - set(graph)):
        yield context.error(
            f"the model has no {role} {name!r}", f"its {role}s are {', '.join(graph)}: name one of them"
        )
    # Where there is none, the server completes them.
    if role == "input" and configured:
        given |= context.filled_inputs
        for name in sorted(name for name, spec in graph.items() if name not in given and not spec.optional):
            yield context.error(f"the model's input {name!r} is missing", "add it, or leave out all inputs")


def _check_tensor(
    context: ConfigContext, role: str, tensor: Any, spec: TensorSpec, graph: TensorSpec, *, has_shape: bool
) -> Iterator[Finding]:
    # OpenVINO converts types, and a fixed first dimension.
    converts = context.backend == "openvino"
    if spec.datatype != graph.datatype and not converts:
        yield context.error(
            f"{role} {tensor.name!r} is {graph.datatype} in the model and TYPE_{_config_type(spec.datatype)} here",
            f"write data_type: TYPE_{_config_type(graph.datatype)}",
        )
    if not has_shape:
        return
    batched = context.completed.max_batch_size > 0 and not getattr(tensor, "allow_ragged_batch", False)
    shape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
    if not context.completed.max_batch_size and not shape:
        # An empty reshape, which is an error of its own.
        return
    full = (-1, *shape) if batched else shape
    # A dimension that varies in the graph may be fixed in the configuration, of inputs; the reverse is refused, and of
    # outputs both: CompareDimsSupported in onnxruntime_backend, src/onnxruntime_utils.cc.
    wanted = (-1, *graph.shape[1:]) if converts and batched else graph.shape
    fits = len(full) == len(wanted) and all(
        have == want or (want == -1 and (role == "input" or converts)) for have, want in zip(full, wanted, strict=True)
    )
    # Without batches, a scalar of the graph is one number for a server, whose tensors have a dimension at least.
    scalar = not batched and not graph.shape and set(shape) <= {1}
    if not fits and not scalar:
        yield context.error(
            f"{role} {tensor.name!r} is {list(graph.shape)} in the model, and dims here make {list(full)}",
            f"write {_dims(graph.shape, batched=batched)}",
        )


def _dims(shape: tuple[int, ...], *, batched: bool) -> str:
    """The field for a tensor of the graph."""
    wanted = shape[1:] if batched else shape
    if wanted:
        return f"dims: {list(wanted)}"
    return "dims: [1] reshape { shape: [] }" if batched else "dims: [1]"


def _check_batching(context: ConfigContext, graph: GraphTensors) -> Iterator[Finding]:
    # A ragged input is one long row, and what the batcher computes of it has whatever shape it has.
    exempt = graph.shapeless | context.filled_inputs
    exempt |= {tensor.name for tensor in context.config.input if tensor.allow_ragged_batch}
    # A weight that is listed as an input, too: a request that may not give it has no rows of it.
    exempt |= {spec.name for spec in graph.inputs.values() if spec.optional} - {
        tensor.name for tensor in context.config.input
    }
    for spec in (*graph.inputs.values(), *graph.outputs.values()):
        if spec.name not in exempt and spec.shape[:1] != (-1,):
            what = "is fixed" if spec.shape else "is missing"
            yield context.error(
                f"max_batch_size is {context.config.max_batch_size}, and the first dimension of {spec.name!r} {what}",
                "make the first dimension dynamic (plansmith build does), or set max_batch_size: 0",
            )


def _config_type(datatype: str) -> str:
    return "STRING" if datatype == "BYTES" else datatype
