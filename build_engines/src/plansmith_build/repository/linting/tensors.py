"""Inputs, outputs and batching of a configuration beside the ONNX file that it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import BuildError
from plansmith_build.repository.config import specs_from_config
from plansmith_build.repository.linting.findings import error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from plansmith_build.reading.signatures import Signature
    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding
    from plansmith_client.tensors import TensorSpec

__all__ = ["check_tensors"]


def check_tensors(context: ConfigContext) -> Iterator[Finding]:
    """Names, types, shapes and batches against the graph, for backends that read ONNX files."""
    if context.backend not in {"onnxruntime", "openvino"}:
        return
    for version in context.served_versions:
        for _, path in context.files_of(version):
            if path.suffix == ".onnx" and path.is_file():
                yield from _check_file(context, path)


def _check_file(context: ConfigContext, path: Path) -> Iterator[Finding]:
    # Reading a graph needs onnx, which a check of hashes alone should not wait for.
    from plansmith_build.portable.repair import listed_weights  # noqa: PLC0415
    from plansmith_build.reading.loading import load_onnx  # noqa: PLC0415
    from plansmith_build.reading.signatures import signature_of  # noqa: PLC0415

    try:
        model = load_onnx(path).network.model
        signature = signature_of(model, weights=listed_weights(model))
    except BuildError as problem:
        where = str(path.relative_to(context.model.path.parent))
        yield error(where, str(problem), "export or build the model again")
        return
    batched = context.config.max_batch_size > 0
    sides: list[tuple[str, Sequence[Any], tuple[TensorSpec, ...]]] = [
        ("input", context.config.input, signature.inputs),
        ("output", context.config.output, signature.outputs),
    ]
    for role, configured, specs in sides:
        graph = {spec.name: spec for spec in specs}
        yield from _check_names(context, role, {tensor.name for tensor in configured}, graph)
        for tensor, spec in zip(configured, _specs(configured, batched=batched), strict=True):
            if tensor.name in graph and spec is not None:
                yield from _check_tensor(context, role, tensor, spec, graph[tensor.name])
    if batched:
        yield from _check_batching(context, signature)


def _specs(configured: Sequence[Any], *, batched: bool) -> list[TensorSpec | None]:
    return [next(iter(specs_from_config([tensor], batched=batched)), None) for tensor in configured]


def _check_names(
    context: ConfigContext, role: str, configured: set[str], graph: Mapping[str, TensorSpec]
) -> Iterator[Finding]:
    if not configured:
        # The server completes it.
        return
    for name in sorted(configured - set(graph)):
        yield error(
            context.path, f"the model has no {role} {name!r}", f"its {role}s are {', '.join(graph)}: name one of them"
        )
    if role == "input":
        for name in sorted(name for name, spec in graph.items() if name not in configured and not spec.optional):
            yield error(context.path, f"the model's input {name!r} is missing", "add it, or leave out all inputs")


def _check_tensor(
    context: ConfigContext, role: str, tensor: Any, spec: TensorSpec, graph: TensorSpec
) -> Iterator[Finding]:
    if spec.datatype != graph.datatype:
        yield error(
            context.path,
            f"{role} {tensor.name!r} is {graph.datatype} in the model and TYPE_{_config_type(spec.datatype)} here",
            f"write data_type: TYPE_{_config_type(graph.datatype)}",
        )
    batched = context.config.max_batch_size > 0
    shape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
    if not batched and not shape and tensor.HasField("reshape"):
        # ValidateIOShape in triton-inference-server/core, src/model_config_utils.cc.
        yield error(
            context.path,
            f"{role} {tensor.name!r} has an empty reshape, which a server takes only with a max_batch_size",
            f"write {_dims(graph.shape, batched=False)} without reshape",
        )
        return
    full = (-1, *shape) if batched else shape
    # A dimension that varies in the graph may be fixed in the configuration, of inputs; the reverse is refused, and of
    # outputs both: CompareDimsSupported in onnxruntime_backend, src/onnxruntime_utils.cc.
    fits = len(full) == len(graph.shape) and all(
        have == want or (want == -1 and role == "input") for have, want in zip(full, graph.shape, strict=False)
    )
    # Without batches, a scalar of the graph is one number for a server, whose tensors have a dimension at least.
    scalar = not batched and not graph.shape and set(shape) <= {1}
    if not fits and not scalar:
        yield error(
            context.path,
            f"{role} {tensor.name!r} is {list(graph.shape)} in the model, and dims here make {list(full)}",
            f"write {_dims(graph.shape, batched=batched)}",
        )


def _dims(shape: tuple[int, ...], *, batched: bool) -> str:
    """The field for a tensor of the graph."""
    wanted = shape[1:] if batched else shape
    if wanted:
        return f"dims: {list(wanted)}"
    return "dims: [1] reshape { shape: [] }" if batched else "dims: [1]"


def _check_batching(context: ConfigContext, signature: Signature) -> Iterator[Finding]:
    for spec in (*signature.inputs, *signature.outputs):
        if spec.shape[:1] != (-1,):
            what = "is fixed" if spec.shape else "is missing"
            yield error(
                context.path,
                f"max_batch_size is {context.config.max_batch_size}, and the first dimension of {spec.name!r} {what}",
                "make the first dimension dynamic (plansmith build does), or set max_batch_size: 0",
            )


def _config_type(datatype: str) -> str:
    return "STRING" if datatype == "BYTES" else datatype
