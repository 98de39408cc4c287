"""Warm-up samples: the requests that a server sends to a model before it is ready.

Rules: TritonModelInstance::GenerateWarmupData in triton-inference-server/core, src/backend_model_instance.cc, and
InferenceRequest::Normalize in src/infer_request.cc, which each sample passes like any request.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

from plansmith_build.reading.shapes import fits
from plansmith_build.repository.linting.files import check_data_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_warmup"]


def check_warmup(context: ConfigContext) -> Iterator[Finding]:
    """Whether each sample is a request that the model takes."""
    most = context.completed.max_batch_size
    declared = {tensor.name: tensor for tensor in context.completed.input}
    filled = context.filled_inputs
    for sample in context.config.model_warmup:
        what = f"warm-up sample {sample.name!r}"
        if not sample.batch_size:
            yield context.warning(f"{what} has batch_size 0, so the server skips it", "write batch_size: 1")
            continue
        if sample.batch_size > most > 0:
            yield context.error(
                f"{what} has batch_size {sample.batch_size}, and max_batch_size is {most}",
                f"write batch_size: {most} or less",
            )
        if declared:
            yield from _check_names(context, what, set(sample.inputs), declared, filled)
        for name, data in sample.inputs.items():
            yield from _check_input(context, f"input {name!r} of {what}", data, declared.get(name))


def _check_names(
    context: ConfigContext, what: str, given: set[str], declared: Mapping[str, Any], filled: frozenset[str]
) -> Iterator[Finding]:
    for name in sorted(given - set(declared) - filled):
        yield context.error(
            f"{what} has an input {name!r}, which the model does not have", f"name {', '.join(declared)}"
        )
    for name in sorted(name for name, tensor in declared.items() if name not in given and not tensor.optional):
        yield context.error(f"{what} does not have the input {name!r}", "add it")


def _check_input(context: ConfigContext, what: str, data: Any, declared: Any) -> Iterator[Finding]:
    dims, kind = list(data.dims), model_config_pb2.DataType.Name(data.data_type)
    if not data.WhichOneof("input_data_type"):
        yield context.error(f"the {what} has no data", "add zero_data, random_data or input_data_file")
    if any(dim < 0 for dim in dims):
        yield context.error(f"the {what} has dims {dims}, which must be sizes", "write the size of each")
        return
    if declared is not None and declared.data_type not in (data.data_type, model_config_pb2.TYPE_INVALID):
        wanted = model_config_pb2.DataType.Name(declared.data_type)
        yield context.error(f"the {what} is {kind}, and the model takes {wanted}", f"write data_type: {wanted}")
    if declared is not None and declared.dims and not fits(dims, declared.dims):
        yield context.error(f"the {what} has dims {dims}, and the model takes {list(declared.dims)}", "make them agree")
    if data.WhichOneof("input_data_type") == "input_data_file":
        yield from check_data_file(
            context, what, "warmup", data.input_data_file, data_type=data.data_type, numbers=prod(dims)
        )
