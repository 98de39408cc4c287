"""Streams over HTTP: Triton's generate extension, whose responses come as server-sent events.

Its JSON has values without shapes and datatypes: the server completes them from the model's metadata, and so does this
module for the answers. Of several free dimensions all but the last are taken for 1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import InvalidInput, ProtocolError
from plansmith_client.protocol.codecs import array_from_values
from plansmith_client.protocol.metadata import read_text
from plansmith_client.protocol.results import InferResult
from plansmith_client.transports.failures import error_from_answer, malformed_answer
from plansmith_client.transports.http.exchanges import answer_from_response, completed
from plansmith_client.transports.http.wire import Request, json_document, json_object, json_values, model_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.protocol.operations import Infer, Tensor
    from plansmith_client.tensors import TensorSpec
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection
    from plansmith_client.transports.http.responses import ResponseReader

__all__ = ["GenerateAnswers", "generate_request"]

_OK = 200


def generate_request(
    operation: Infer, metadata: ModelMetadata, connection: Connection, headers: Mapping[str, str]
) -> Request:
    """The request of a stream.

    Raises:
        InvalidInput: the inputs have shapes or values that this form cannot carry.
    """
    specs = {spec.name: spec for spec in metadata.inputs}
    document: dict[str, Any] = dict(operation.parameters)
    if operation.request_id:
        document["id"] = operation.request_id
    for tensor in operation.inputs:
        if tensor.name in document:
            raise InvalidInput(f"{_of(operation, tensor)}: over HTTP it is called like a parameter: use the gRPC URL")
        document[tensor.name] = _values(operation, tensor, specs.get(tensor.name))
    if any(_free(spec) > 1 for spec in metadata.outputs) and any(
        specs[tensor.name].shape[:1] == (-1,) and _free(specs[tensor.name]) == 1 and tensor.array.shape[0] > 1
        for tensor in operation.inputs
        if tensor.name in specs
    ):
        raise InvalidInput(
            f"Model {operation.name!r}: several rows cannot be told apart in a stream over HTTP, whose outputs come "
            "without their shapes: send one row, or use the gRPC URL"
        )
    request = Request(
        "POST",
        f"{model_path(operation)}/generate_stream",
        {"Content-Type": "application/json", "Accept": "text/event-stream"},
        (json_document(operation, document),),
    )
    # Each event has to be read as it comes.
    return completed(request, replace(connection, compression=None), headers)


class GenerateAnswers:
    """Reads the responses of one stream as their bytes arrive.

    Args:
        operation: what was asked.
        metadata: the model's, which says the datatypes and shapes of its outputs.
        address: the server's, for messages.
    """

    def __init__(self, operation: Infer, metadata: ModelMetadata, address: Address) -> None:
        self._operation = operation
        self._specs = {spec.name: spec for spec in metadata.outputs}
        self._address = address
        self._rest = b""

    def read(self, reader: ResponseReader) -> Iterator[InferResult]:
        """The responses that have come since the last call.

        Raises:
            ClientError: the server refused the request, the model failed, or a response cannot be read.
        """
        if reader.status not in (0, _OK):
            if reader.is_complete:
                for response in reader.response():
                    if response is not None:
                        answer_from_response(response, self._operation, self._address)
            return
        *events, self._rest = (self._rest + reader.taken()).replace(b"\r\n", b"\n").split(b"\n\n")
        if reader.is_complete:
            # Some servers leave out the empty line after the last event; what is cut is malformed.
            events.append(self._rest)
        for event in events:
            data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            if data:
                yield self._result(data)

    def _result(self, data: bytes) -> InferResult:
        operation = self._operation
        try:
            document = json_object(data)
            failure = document.get("error")
            if failure is None:
                names = operation.outputs or tuple(name for name in self._specs if name in document)
                return InferResult(
                    {name: _array(document[name], self._specs[name]) for name in names},
                    model_name=read_text(document["model_name"]),
                    model_version=read_text(document.get("model_version", "")),
                    request_id=read_text(document.get("id", operation.request_id)),
                    parameters={
                        name: value
                        for name, value in document.items()
                        if name not in ("model_name", "model_version", "id", *self._specs)
                    },
                )
        except (ProtocolError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise malformed_answer(operation, self._address.url, error) from error
        raise error_from_answer("UNKNOWN", str(failure), operation, self._address.url)


def _of(operation: Infer, tensor: Tensor) -> str:
    return f"Model {operation.name!r}, input {tensor.name!r}"


def _free(spec: TensorSpec) -> int:
    return spec.shape.count(-1)


def _values(operation: Infer, tensor: Tensor, spec: TensorSpec | None) -> list[Any]:
    shape = tensor.array.shape
    if spec is None or _completed(spec.shape, tensor.array.size) != shape:
        declared = spec or "an input that the server declares"
        raise InvalidInput(
            f"{_of(operation, tensor)}: given {list(shape)}, expected {declared} with 1 for each free dimension "
            "but the last: a stream over HTTP has no shapes; use the gRPC URL"
        )
    return json_values(operation, tensor.name, tensor.array)


def _completed(shape: Sequence[int], count: int) -> tuple[int, ...]:
    """The shape of so many values: the last free dimension takes what the others leave."""
    known = math.prod(size for size in shape if size != -1)
    last = max((place for place, size in enumerate(shape) if size == -1), default=-1)
    rest = count // known if known else 0
    return tuple(rest if place == last else 1 if size == -1 else size for place, size in enumerate(shape))


def _array(value: Any, spec: TensorSpec) -> np.ndarray[Any, Any]:
    values = value if isinstance(value, list) else [value]
    return array_from_values(values, spec.datatype, _completed(spec.shape, len(values)))
