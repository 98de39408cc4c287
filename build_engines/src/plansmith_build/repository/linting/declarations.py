"""Inputs and outputs as a configuration declares them, before any model file is read.

Rules: ValidateIOShape, ValidateModelInput, ValidateModelOutput and ValidateBatchIO in triton-inference-server/core,
src/model_config_utils.cc.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_declarations"]

_IMAGE_DIMS = 3


def check_declarations(context: ConfigContext) -> Iterator[Finding]:
    """Names, types, dims, reshapes and formats."""
    for role, tensors in (("input", context.config.input), ("output", context.config.output)):
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield context.error(f"{role} {name!r} is declared {count} times", "remove all but one of them")
        for tensor in tensors:
            # Of other models, backends complete them.
            missing = [field for field in ("data_type", "dims") if not getattr(tensor, field)]
            for field in missing if context.backend == "ensemble" else ():
                yield context.error(f"{role} {tensor.name!r} of the ensemble has no {field}", f"add {field}")
            yield from _check_tensor(context, role, tensor)
    yield from _check_batch_tensors(context)


def _check_tensor(context: ConfigContext, role: str, tensor: Any) -> Iterator[Finding]:
    what = f"{role} {tensor.name!r}"
    if not tensor.name:
        yield context.error(f"an {role} has no name", "add name")
    for field, dims in (("dims", tensor.dims), ("reshape", tensor.reshape.shape)):
        wrong = [dim for dim in dims if dim < 1 and dim != -1]
        if wrong:
            yield context.error(
                f"{what} has {wrong[0]} in {field}", "write the size, or -1 for a dimension that varies"
            )
            return
    yield from _check_reshape(context, what, tensor)
    if role == "input" and tensor.format != model_config_pb2.ModelInput.FORMAT_NONE and len(tensor.dims) != _IMAGE_DIMS:
        name = model_config_pb2.ModelInput.Format.Name(tensor.format)
        yield context.error(
            f"{what} has format {name} and {len(tensor.dims)} dims: that format is for 3, without the batch",
            f"write three dims, or remove format: {name}",
        )
    for field in ("is_shape_tensor", "is_non_linear_format_io"):
        if getattr(tensor, field) and context.backend != "tensorrt":
            yield context.error(f"{what} has {field}, which only TensorRT models can have", f"remove {field}")
    if tensor.is_non_linear_format_io and context.backend == "tensorrt" and len(tensor.dims) != _IMAGE_DIMS:
        yield context.error(f"{what} has is_non_linear_format_io and {len(tensor.dims)} dims", "write three dims")


def _check_reshape(context: ConfigContext, what: str, tensor: Any) -> Iterator[Finding]:
    if not tensor.HasField("reshape") or not tensor.dims:
        return
    dims, shape = list(tensor.dims), list(tensor.reshape.shape)
    if not shape and context.completed.max_batch_size == 0:
        yield context.error(
            f"{what} has an empty reshape, which needs a max_batch_size above 0", f"write dims: {dims} without reshape"
        )
    elif _sizes(dims) != _sizes(shape):
        yield context.error(
            f"{what} has dims {dims} and reshape {shape}: the number of elements and of dimensions that vary must be "
            "the same",
            "correct one of them, or remove reshape",
        )


def _sizes(dims: Sequence[int]) -> list[int]:
    """The number of elements before, between and after the dimensions that vary."""
    parts: list[list[int]] = [[]]
    for dim in dims:
        if dim == -1:
            parts.append([])
        else:
            parts[-1].append(dim)
    return [prod(part) for part in parts]


def _check_batch_tensors(context: ConfigContext) -> Iterator[Finding]:
    config = context.config
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    for field, entries in (("batch_input", config.batch_input), ("batch_output", config.batch_output)):
        for entry in entries:
            if not entry.target_name:
                # Of a batch_output, Triton 2.51 ends with SIGSEGV where it loads the model.
                yield context.error(f"{field} has no target_name", "name the tensor that it is about")
            if len(entry.source_input) != 1:
                yield context.error(f"{field} has {len(entry.source_input)} source_input", "name exactly one")
            for name in entry.source_input:
                if name not in inputs:
                    yield context.error(
                        f"{field} names the source_input {name!r}, which is not an input of the configuration",
                        f"name one of {', '.join(sorted(inputs)) or 'the inputs, and declare them'}",
                    )
    yield from _check_batch_targets(context, outputs)


def _check_batch_targets(context: ConfigContext, outputs: set[str]) -> Iterator[Finding]:
    config = context.config
    types = (model_config_pb2.TYPE_INT32, model_config_pb2.TYPE_FP32)
    for entry in config.batch_input:
        if entry.data_type not in types:
            name = model_config_pb2.DataType.Name(entry.data_type)
            yield context.error(f"batch_input has data_type {name}", "write data_type: TYPE_INT32 or TYPE_FP32")
    for entry in config.batch_output:
        for name in entry.target_name:
            if name not in outputs:
                yield context.error(
                    f"batch_output names the target {name!r}, which is not an output of the configuration",
                    f"name one of {', '.join(sorted(outputs)) or 'the outputs, and declare them'}",
                )
        if len(set(entry.target_name)) < len(entry.target_name):
            yield context.error("batch_output names a target twice", "name each once")
