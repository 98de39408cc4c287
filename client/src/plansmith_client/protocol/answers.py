"""Whether an answer belongs to its request and is what the model's metadata declares; no other reaches the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_client.errors import InvalidInput, ProtocolError
from plansmith_client.protocol.metadata import shape_fits
from plansmith_client.protocol.operations import Infer, ModelOperation

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.protocol.operations import Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.protocol.statistics import ModelStatistics
    from plansmith_client.tensors import TensorSpec

__all__ = ["MALFORMED", "check_answer", "check_result", "mismatch", "read_statistics"]

MALFORMED = (
    ProtocolError,
    LookupError,
    TypeError,
    ArithmeticError,
    ValueError,
    AttributeError,
    RecursionError,
)
"""What reading an answer raises if it is malformed."""


def check_answer(operation: Operation[Any], answer: Any) -> None:
    """Refuse an answer to another question.

    Raises:
        ProtocolError: it is of another model, version or request, or lacks an output that was asked for.
    """
    if isinstance(operation, Infer):
        check_result(operation, answer)
        for name in operation.outputs or ():
            if name not in answer:
                raise ProtocolError(f"the output {name!r} was asked for; the answer has {_names(answer)}")
    elif isinstance(operation, ModelOperation) and operation.name != getattr(answer, "name", operation.name):
        raise ProtocolError(f"it describes the model {answer.name!r}")


def check_result(operation: Infer, result: InferResult) -> None:
    """Refuse a result, or one response of a stream, that belongs to another request.

    Raises:
        ProtocolError: the model, the version or the identifier is another.
    """
    if result.model_name != operation.name:
        raise ProtocolError(f"it is from the model {result.model_name!r}")
    if operation.version and result.model_version not in (operation.version, ""):
        raise ProtocolError(f"it is from version {result.model_version!r}")
    # A server need not give the identifier back, and may make one where none was given.
    if operation.request_id and result.request_id not in (operation.request_id, ""):
        raise ProtocolError(f"it is to the request {result.request_id!r}, not to {operation.request_id!r}")


def mismatch(operation: Infer, result: InferResult, metadata: ModelMetadata, *, whole: bool = True) -> str:
    """How a result differs from what the metadata declares; empty if it does not.

    Args:
        operation: the request.
        result: its result.
        metadata: of the model; without outputs, nothing is declared.
        whole: whether the result has to have all outputs and the rows of the request; the responses of a stream
            need not.
    """
    declared = metadata.outputs_by_name
    if not declared:
        return ""
    # Which outputs come may depend on which optional inputs were given.
    if whole and operation.outputs is None and len(result) < (1 if metadata.has_optional_inputs else len(declared)):
        missing = ", ".join(repr(name) for name in declared if name not in result)
        return f"of its outputs {missing} did not come; the answer has {_names(result)}"
    classes, rows = operation.classes, None
    if whole and metadata.max_batch_size and operation.inputs:
        rows = operation.inputs[0].array.shape[0]
    for name, array in result.items():
        spec = declared.get(name)
        if spec is None:
            return f"the model has no output {name!r}: it has {', '.join(map(repr, declared))}"
        if problem := _difference(spec, array, metadata, classes=classes):
            return f"the output {name!r} {problem}"
        if rows is not None and array.shape[:1] != (rows,):
            return f"the output {name!r} has the shape {list(array.shape)}, the request has {rows} rows"
    return ""


def _difference(spec: TensorSpec, array: np.ndarray[Any, Any], metadata: ModelMetadata, *, classes: int) -> str:
    try:
        is_declared = array.dtype == (object if classes else spec.numpy_dtype)
    except InvalidInput:
        is_declared = False
    if not is_declared:
        return f"is {array.dtype}, declared is {'BYTES' if classes else spec.datatype}"
    shape = array.shape
    if classes:
        fits = 0 < (shape or (0,))[-1] <= classes
        return "" if fits else f"has the shape {list(shape)}, asked for are {classes} classes"
    if metadata.max_batch_size is None and len(shape) == len(spec.shape) + 1 and shape[-1] == 1:
        # MLServer's codecs write vectors as columns.
        shape = shape[:-1]
    if not shape_fits(shape, spec.shape):
        return f"has the shape {list(array.shape)}, declared is {list(spec.shape)}"
    return ""


def _names(result: InferResult) -> str:
    return ", ".join(map(repr, result)) or "none"


def read_statistics(document: Mapping[str, Any]) -> tuple[ModelStatistics, ...]:
    """Read the answer of the statistics extension, as JSON or as gRPC's message in the same shape."""
    from plansmith_client.protocol.statistics import statistics_from_document  # noqa: PLC0415 - not for a first answer

    return statistics_from_document(document)
