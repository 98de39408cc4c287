"""Arrays to the bytes and values of the wire, and back.

The binary form of a tensor is its elements in row-major order, little-endian; of a BYTES tensor, each element's length
as four bytes, little-endian, and then the element (the binary tensor data extension of the Open Inference Protocol).
The JSON form is the flat list of its elements.

Decoded arrays own their memory: aligned, writable, and free of the message that they came in.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from plansmith_client.errors import InvalidInput, ProtocolError
from plansmith_client.tensors import numpy_dtype_from_datatype

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Layout",
    "array_from_binary",
    "array_from_values",
    "array_in_layout",
    "binary_from_array",
    "layout_of",
    "values_from_array",
]

_LENGTH_BYTES = 4
# A copy of fewer bytes takes less time than a view, and than to let other threads run meanwhile.
_SMALL = 2**14
_LENGTH = np.dtype("<u4")


def binary_from_array(array: np.ndarray[Any, Any]) -> bytes | memoryview:
    """The binary form of an array that is of a protocol dtype already; of a large contiguous one no copy.

    Args:
        array: any shape; numeric, or of dtype object with elements `bytes`.
    """
    if array.dtype == object:
        return _binary_from_bytes(array)
    if array.nbytes <= _SMALL:
        return array.tobytes()
    # A view as bytes first: the buffer protocol does not know bfloat16.
    flat = np.asarray(array, order="C").reshape(-1)
    data: memoryview = flat.view(np.uint8).data
    return data


def _binary_from_bytes(array: np.ndarray[Any, Any]) -> bytes:
    elements: list[bytes] = array.reshape(-1).tolist()
    lengths = np.fromiter(map(len, elements), dtype=_LENGTH, count=len(elements)).view("V4").tolist()
    return b"".join(chain.from_iterable(zip(lengths, elements, strict=True)))


class Layout(NamedTuple):
    """How a tensor lies in its binary form: `size` is its bytes, for all datatypes but BYTES."""

    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    elements: int
    size: int


def array_from_binary(data: bytes | memoryview, datatype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """The array of a tensor in binary form.

    Raises:
        ProtocolError: the bytes are not a tensor of this datatype and shape.
    """
    return array_in_layout(data, layout_of(datatype, shape))


def layout_of(datatype: str, shape: Sequence[int]) -> Layout:
    """The layout of a tensor's binary form.

    Raises:
        ProtocolError: there is no such datatype, or no array of this shape.
    """
    dtype, count = _dtype(datatype), _element_count(shape)
    return Layout(datatype, tuple(shape), dtype, count, count * dtype.itemsize)


def array_in_layout(data: bytes | memoryview, layout: Layout) -> np.ndarray[Any, Any]:
    """The array of a tensor in binary form.

    Raises:
        ProtocolError: the bytes are not a tensor of this layout.
    """
    datatype, shape, dtype, count, size = layout
    if datatype == "BYTES":
        parts = _bytes_from_binary(bytes(data), count)
        elements = np.empty(count, dtype=object)
        elements[:] = parts
        return elements.reshape(shape)
    # Checked before memory is allocated: the shape comes from the server.
    if len(data) != size:
        raise ProtocolError(f"{datatype} {list(shape)} is not what {len(data)} bytes hold")
    if datatype == "BOOL":
        # Any byte but zero is true, where numpy wants a one.
        flags: np.ndarray[Any, Any] = np.frombuffer(data, dtype=np.uint8) != 0
        return flags.reshape(shape)
    # A copy: the message's bytes may lie at any address, and are not the caller's to change.
    if 0 < size <= _SMALL and dtype.kind in "iuf" and dtype.isnative:
        # numpy's own would let go of the interpreter's lock, for which a thread has to wait again where many want it.
        array: np.ndarray[Any, Any] = np.empty(shape, dtype)
        array.data.cast("B")[:] = data
        return array
    return np.ndarray(shape, dtype, data).copy()


def _bytes_from_binary(data: bytes, count: int) -> list[bytes]:
    # The length of each element gives the start of the next one: a loop that numpy cannot replace.
    elements = []
    position, end = 0, len(data)
    while position < end:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "little")
        if start > end or position > end:
            raise ProtocolError("a BYTES tensor ends in the middle of an element")
        elements.append(data[start:position])
    if len(elements) != count:
        raise ProtocolError(f"a BYTES tensor of {count} elements came with {len(elements)}")
    return elements


def array_from_values(values: Sequence[Any], datatype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """The array of a tensor whose elements came as JSON or as typed protobuf fields.

    Args:
        values: the elements, flat or nested; for BYTES `str` or `bytes`.
        datatype: the protocol's.
        shape: without dynamic dimensions.

    Raises:
        ProtocolError: the values are not a tensor of this datatype and shape.
    """
    count = _element_count(shape)
    dtype = _dtype(datatype)
    try:
        array = np.array(values, dtype=object if datatype == "BYTES" else None)
        if array.size != count:
            raise ProtocolError(f"{datatype} {list(shape)} takes {count} values, {array.size} came")
        array = array.reshape(shape)
        if datatype == "BYTES":
            return _encode_text(array)
        if datatype in ("INT64", "UINT64") and array.dtype.kind not in "iu":
            # Integers of both ends of the range in one list: numpy would go through float64 and lose digits.
            array = np.array(values, dtype=object).reshape(shape)
        return _converted(array, datatype, dtype)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ProtocolError(f"the values are not {datatype} {list(shape)}: {error}") from error


def _converted(array: np.ndarray[Any, Any], datatype: str, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The array as the dtype: floats rounded, since text has any number of digits; all else as it came, or refused."""
    is_float = dtype.kind not in "biu"
    if array.dtype == object and is_float:
        # JSON has no NaN: many servers write null.
        if not all(value is None or type(value) in (int, float) for value in array.reshape(-1).tolist()):
            raise ProtocolError(f"not all values are numbers, as {datatype} has them")
        array = array.astype(np.float64)
    if array.size and array.dtype.kind not in ("biu" if datatype == "BOOL" else "iufO"):
        raise ProtocolError(f"{array.reshape(-1)[0]!r} is not {datatype}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(dtype)
    kept = np.isfinite(converted) == np.isfinite(array) if is_float else converted == array
    if not kept.all():
        raise ProtocolError(f"{array[~kept].reshape(-1)[0]!r} is not {datatype}")
    return converted


def _encode_text(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [value if type(value) is bytes else value.encode() for value in array.reshape(-1).tolist()]
    return encoded.reshape(array.shape)


def values_from_array(array: np.ndarray[Any, Any]) -> list[Any]:
    """The JSON form of an array that is of a protocol dtype already: its elements, flat.

    Raises:
        InvalidInput: it has bytes that are not UTF-8, or a NaN or an infinity: JSON has neither.
    """
    flat = array.reshape(-1)
    if array.dtype == object:
        try:
            return [element.decode() for element in flat.tolist()]
        except UnicodeDecodeError as error:
            raise InvalidInput(
                "this server takes JSON only, which cannot carry bytes that are not UTF-8 text; use its gRPC port"
            ) from error
    if array.dtype.kind not in "biu":
        flat = flat.astype(np.float64)
        if not np.isfinite(flat).all():
            raise InvalidInput("this server takes JSON only, which has no NaN and no infinity; use its gRPC port")
    values: list[Any] = flat.tolist()
    return values


def _dtype(datatype: str) -> np.dtype[Any]:
    try:
        return numpy_dtype_from_datatype(datatype)
    except InvalidInput as error:
        raise ProtocolError(str(error)) from error


def _element_count(shape: Sequence[int]) -> int:
    """The number of elements of an array.

    Raises:
        ProtocolError: a dimension is not a size.
    """
    count = 1
    for size in shape:
        if not isinstance(size, int) or size < 0:
            raise ProtocolError(f"{list(shape)} is not the shape of an array")
        count *= size
    return count
