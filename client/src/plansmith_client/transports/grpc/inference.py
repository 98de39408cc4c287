"""Inferences over gRPC: requests to the bytes of their messages, and the bytes of replies to results.

protobuf writes and reads the descriptions of a message, which are the same from call to call and so are kept. The
contents of the tensors stand behind them: protobuf would copy them twice. Parts of a message that follow one another
are one message, with the fields of all of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from plansmith_client.errors import InvalidInput, ProtocolError
from plansmith_client.protocol.codecs import array_from_values, array_in_layout, binary_from_array, layout_of
from plansmith_client.protocol.results import InferResult
from plansmith_client.transports.grpc.messages import service_pb2
from plansmith_client.transports.grpc.proto_documents import chosen_values
from plansmith_client.transports.places import array_from_place, place_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from plansmith_client.protocol.codecs import Layout
    from plansmith_client.protocol.operations import Infer, OutputPlace, ParameterValue, SharedPlace

__all__ = ["infer_request", "infer_result", "result_from_message"]

# protobuf's limit is 2 GiB for a whole message; the rest of it takes little.
_MAX_TENSOR_BYTES = 2**31 - 2**20
_MAX_INT64 = 2**63 - 1

# A field's number and, in three bits, that a length and as many bytes follow.
_RAW_INPUT = bytes([7 << 3 | 2])
_RAW_OUTPUT = 6 << 3 | 2
_DESCRIPTIONS = frozenset(number << 3 | 2 for number in range(1, 6))
# Of larger descriptions, which hold values, none is kept.
_LARGEST_KEPT = 2**10


def infer_request(operation: Infer) -> bytes:
    """The bytes of a `ModelInferRequest`.

    Raises:
        InvalidInput: its tensors are larger than a message may be.
    """
    parts: list[bytes | memoryview] = [_model(operation.name, operation.version)]
    contents: list[bytes | memoryview] = []
    size = 0
    for name, datatype, array, place, _ in operation.inputs:
        parts.append(_input(name, datatype, array.shape, place))
        if place is None:
            data = binary_from_array(array)
            size += len(data)
            contents += (_RAW_INPUT, _varint(len(data)), data)
    if size > _MAX_TENSOR_BYTES:
        raise InvalidInput(
            f"Model {operation.name!r}: given inputs of {size} bytes, expected less than 2 GiB, the most that one gRPC "
            "message can carry; send them in parts or over HTTP"
        )
    if operation.request_id or operation.outputs or operation.parameters:
        parts.append(_options(operation))
    return b"".join(parts + contents)


@lru_cache
def _model(name: str, version: str) -> bytes:
    return _bytes(service_pb2.ModelInferRequest(model_name=name, model_version=version))


@lru_cache(1024)
def _input(name: str, datatype: str, shape: tuple[int, ...], place: SharedPlace | None) -> bytes:
    request = service_pb2.ModelInferRequest()
    described = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if place is not None:
        for key, where in place_parameters(place).items():
            _set_parameter(described.parameters[key], where)
    return _bytes(request)


def _options(operation: Infer) -> bytes:
    request = service_pb2.ModelInferRequest(id=operation.request_id)
    for name in operation.outputs or ():
        wish = request.outputs.add(name=name)
        if operation.classes:
            wish.parameters["classification"].int64_param = operation.classes
        if name in operation.places:
            for key, where in place_parameters(operation.places[name].place).items():
                _set_parameter(wish.parameters[key], where)
    for name, value in operation.parameters.items():
        _set_parameter(request.parameters[name], value)
    return _bytes(request)


def _set_parameter(parameter: Any, value: ParameterValue) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    elif value > _MAX_INT64:
        parameter.uint64_param = value
    else:
        parameter.int64_param = value


def _bytes(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


@lru_cache(1024)
def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits to a byte; the eighth says that more follow
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


class _Output(NamedTuple):
    """An output without its contents, but `values` if they came as such."""

    name: str
    layout: Layout
    values: list[Any]


class _Description(NamedTuple):
    """An answer, `about` as arguments of `InferResult`; `contents` only if they do not follow it."""

    about: dict[str, Any]
    outputs: tuple[_Output, ...]
    contents: Sequence[bytes]


def infer_result(reply: bytes, places: Mapping[str, OutputPlace]) -> InferResult:
    """The result in the bytes of a `ModelInferResponse`.

    Args:
        reply: the bytes.
        places: the outputs that the server was asked to write to shared memory.

    Raises:
        ProtocolError: or one of Python's errors: the reply is malformed.
    """
    description, contents = _split(reply)
    described = _known(description) if len(description) <= _LARGEST_KEPT else _read(description)
    return _result(described, contents or described.contents, places)


def result_from_message(message: Any) -> InferResult:
    """The result in a `ModelInferResponse`; raises as `infer_result`."""
    described = _described(message)
    return _result(described, described.contents, {})


def _split(reply: bytes) -> tuple[bytes, list[memoryview]]:
    """What describes the outputs, and their contents behind it; of a message in another order all, and nothing."""
    view, end = memoryview(reply), len(reply)
    contents: list[memoryview] = []
    position = described = 0
    try:
        while position < end:
            tag = reply[position]
            size = reply[position + 1]
            position += 2
            if size > 0x7F:  # noqa: PLR2004
                size, position = _long_size(reply, position - 1)
            position += size
            if tag in _DESCRIPTIONS and not contents:
                described = position
            elif tag == _RAW_OUTPUT and position <= end:
                contents.append(view[position - size : position])
            else:
                return reply, []
    except IndexError:
        return reply, []
    return reply[:described], contents


def _long_size(reply: bytes, position: int) -> tuple[int, int]:
    """A size and where it ends: seven bits to a byte, the lowest first; the eighth says that more follow."""
    size = 0
    # No message is as large as five bytes can say; one with more is left to protobuf.
    for shift in range(0, 35, 7):
        byte = reply[position]
        position += 1
        size |= (byte & 0x7F) << shift
        if byte <= 0x7F:  # noqa: PLR2004
            return size, position
    return len(reply), position


def _read(description: bytes) -> _Description:
    try:
        return _described(service_pb2.ModelInferResponse.FromString(description))
    except DecodeError as error:
        raise ProtocolError("it is not a message of protobuf") from error


_known = lru_cache(256)(_read)


def _described(reply: Any) -> _Description:
    about = {
        "model_name": reply.model_name,
        "model_version": reply.model_version,
        "request_id": reply.id,
        "parameters": chosen_values(reply.parameters),
    }
    outputs = tuple(
        _Output(output.name, layout_of(output.datatype, output.shape), _typed_values(output))
        for output in reply.outputs
    )
    seen: set[str] = set()
    for name, *_ in outputs:
        if name in seen:
            raise ProtocolError(f"the output {name!r} came twice")
        seen.add(name)
    return _Description(about, outputs, reply.raw_output_contents[:])


def _result(
    described: _Description, contents: Sequence[bytes | memoryview], places: Mapping[str, OutputPlace]
) -> InferResult:
    if contents and len(contents) != len(described.outputs):
        raise ProtocolError(f"{len(described.outputs)} outputs came with the data of {len(contents)}")
    outputs: dict[str, np.ndarray[Any, Any]] = {}
    for index, (name, layout, values) in enumerate(described.outputs):
        if places and name in places and not (contents and contents[index]):
            # Nothing else tells that it was written there.
            outputs[name] = array_from_place(places[name], layout.datatype, layout.shape)
        elif contents and values:
            raise ProtocolError(f"the output {name!r} came twice, as bytes and as values")
        elif contents:
            outputs[name] = array_in_layout(contents[index], layout)
        else:
            outputs[name] = array_from_values(values, layout.datatype, layout.shape)
    return InferResult(outputs, **described.about)


def _typed_values(output: Any) -> list[Any]:
    # Which one of the typed fields is filled follows from the datatype.
    filled = output.contents.ListFields()
    if len(filled) > 1:
        raise ProtocolError(f"the output {output.name!r} has values of several types")
    return list(filled[0][1]) if filled else []
