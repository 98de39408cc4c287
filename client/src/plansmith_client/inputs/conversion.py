"""Which values are accepted for a tensor of a datatype.

An array or an integer is accepted only if no value of it changes. Only Python floats, and float32 for BF16, are
rounded; with `cast`, as of a `Client(cast=True)`, arrays of floats too.

- An array (anything with a dtype of its own: of numpy, torch, or with `__array__` or `__dlpack__`) is accepted if its
  dtype is the declared one, or if the declared one holds every value of it: int32 for INT64, uint8 for FP32, float32
  for FP64. Any other is refused: float64 for FP32, int64 for INT32, int64 for FP64 (2**53 + 1 is not a float64).
- Python numbers, alone or in lists, have no dtype: they take the declared one. An `int` must fit it exactly (2**24 + 1
  is not an FP32); a `float` is rounded to the nearest value of FP64, FP32, FP16 or BF16, as every literal is, and must
  be whole for integer datatypes; a value that would overflow is refused.
- numpy itself has no BF16, so float32 arrays are accepted for it, rounded to the nearest value, ties to even.
- With `cast` arrays of numbers are held to the rule for Python numbers: float64 is rounded to FP32, and int64 is taken
  for FP32 or INT32 where each number fits exactly. For files and data frames, whose dtype was nobody's choice, too.
- BYTES takes `bytes`, `str` (sent as UTF-8) and numpy's string arrays.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.shared_memory.cuda import device_array
from plansmith_client.tensors import numpy_dtype_from_datatype

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["UnfitValueError", "array_from_value", "host_array"]

# A floating datatype with this many bits of significand holds every integer up to 2**bits.
_SIGNIFICAND_BITS = {"BF16": 8, "FP16": 11, "FP32": 24, "FP64": 53}
_LONGEST_SHOWN = 10**100
_HOLDS_FLOATS = {
    "BF16": {"bfloat16"},
    "FP16": {"float16"},
    "FP32": {"float16", "bfloat16", "float32"},
    "FP64": {"float16", "bfloat16", "float32", "float64"},
}


class UnfitValueError(ValueError):
    """The value does not fit the datatype; the message says why, in words that follow the tensor's name."""


def array_from_value(value: ArrayLike, datatype: str, *, cast: bool = False) -> np.ndarray[Any, Any]:
    """`value` as an array of `datatype`, by the rules of this module.

    Args:
        value: an array, a Python number or string, or nested lists of them.
        datatype: the protocol's.
        cast: whether arrays are held to the rule for Python numbers.

    Returns:
        An array of the datatype's dtype and the value's shape, not copied where it was one already; for BYTES an array
        of `bytes` objects.

    Raises:
        UnfitValueError: the value does not fit.
    """
    dtype = numpy_dtype_from_datatype(datatype)
    if type(value) is np.ndarray and value.dtype == dtype and datatype != "BYTES":
        return value
    if datatype == "BYTES":
        return _bytes_array(value)
    array = host_array(value)
    if _is_python(value) and _holds_numbers(array):
        return _literal(value, array, datatype, dtype)
    if array.dtype == dtype or _holds_every_value(datatype, dtype, array.dtype):
        return array.astype(dtype, copy=False)
    is_bfloat16 = array.dtype.name == "bfloat16"
    if cast and (is_bfloat16 or _holds_numbers(array)):
        array = array.astype(np.float32) if is_bfloat16 else array
        return _literal(array, array, datatype, dtype)
    if array.dtype.kind in "OSUTMmcV" and not is_bfloat16:
        raise UnfitValueError(f"holds {_name_of(array.dtype)}, which {datatype} does not take")
    if datatype == "BF16" and array.dtype == np.float32:
        return _rounded(array, dtype, datatype)
    raise UnfitValueError(
        f"is {array.dtype.name}, which {datatype} cannot hold without loss; "
        f"convert it first if you accept the loss: .astype({_spelling(datatype, dtype)})"
    )


def host_array(value: Any) -> np.ndarray[Any, Any]:
    """An array, of whichever library, as numpy's, with the dtype that it has.

    Raises:
        UnfitValueError: it is not an array, or has masked values.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):  # type: ignore[no-untyped-call]
        raise UnfitValueError("has masked values, which no tensor has: fill them first, .filled(value)")
    try:
        if hasattr(value, "detach") and hasattr(value, "requires_grad"):
            value = _without_graph(value)
        device = device_array(value) if hasattr(type(value), "__cuda_array_interface__") else None
        if device is not None:
            return device.to_host()
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except Exception as error:
        if isinstance(value, (list, tuple)):
            raise UnfitValueError("is a list whose elements differ in length or type, which is not an array") from error
        raise UnfitValueError(f"is a {type(value).__name__} that numpy cannot convert: {error}") from error


def _without_graph(tensor: Any) -> Any:
    """A tensor of torch without what training needs; numpy knows no BF16, so of such a tensor the bits."""
    tensor = tensor.detach()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor
    bits = tensor.cpu().contiguous().view(sys.modules["torch"].int16)
    return bits.numpy().view(numpy_dtype_from_datatype("BF16"))


def _is_python(value: Any) -> bool:
    """Whether the value has no dtype of its own; the first element of a list speaks for all."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return not hasattr(value, "dtype") and not hasattr(value, "__array__")


def _holds_numbers(array: np.ndarray[Any, Any]) -> bool:
    # numpy keeps integers of more than 64 bits as objects.
    if array.dtype.kind == "O":
        return all(isinstance(element, (int, float)) for element in array.reshape(-1).tolist())
    return array.dtype.kind in "biuf" or array.size == 0


def _literal(value: Any, array: np.ndarray[Any, Any], datatype: str, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if array.size == 0:
        return array.astype(dtype)
    bits = _SIGNIFICAND_BITS.get(datatype)
    if bits is not None:
        return _float_literal(value, array, datatype, dtype, 2**bits)
    if array.dtype.kind == "f" and datatype in ("INT64", "UINT64"):
        # Integers of both ends of the range in one list: numpy converted them to float64 and lost digits.
        array = np.asarray(value, dtype=object)
    if array.dtype == object:
        lowest, highest = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        for number in array.reshape(-1).tolist():
            if not (lowest <= number <= highest and number == int(number)):
                # Python refuses to print integers of thousands of digits.
                is_long = isinstance(number, int) and abs(number) >= _LONGEST_SHOWN
                shown = "an integer of many digits" if is_long else number
                raise UnfitValueError(f"holds {shown}, which {datatype} cannot hold")
    with np.errstate(invalid="ignore"):
        converted = array.astype(dtype)
    if not (converted == array).all():
        wrong = array.reshape(-1)[int(np.argmax((converted != array).reshape(-1)))]
        raise UnfitValueError(f"holds {wrong}, which {datatype} cannot hold")
    return converted


def _float_literal(
    value: Any, array: np.ndarray[Any, Any], datatype: str, dtype: np.dtype[Any], exact_up_to: int
) -> np.ndarray[Any, Any]:
    if array.dtype.kind == "f" and value is array:
        return _rounded(array, dtype, datatype)
    if array.dtype.kind in "iu" and -exact_up_to <= int(array.min()) and int(array.max()) <= exact_up_to:
        return array.astype(dtype)
    try:
        floats = array.astype(np.float64)
    except OverflowError as error:
        raise UnfitValueError(f"holds an integer that is beyond the range of {datatype}") from error
    converted = _rounded(floats, dtype, datatype)
    if (np.abs(floats) >= exact_up_to).any():
        # The numbers as written: numpy may have converted integers to float64 already.
        given = np.asarray(value, dtype=object).reshape(-1).tolist()
        for number, kept in zip(given, converted.astype(np.float64).reshape(-1).tolist(), strict=True):
            if isinstance(number, (int, np.integer)) and int(number) != kept:
                raise UnfitValueError(
                    f"holds the integer {number}, which {datatype} cannot hold exactly: write it as a float, "
                    f"{float(number)!r}, if it may be rounded"
                )
    return converted


def _rounded(array: np.ndarray[Any, Any], dtype: np.dtype[Any], datatype: str) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    overflowed = np.isinf(converted) & np.isfinite(array)
    if overflowed.any():
        wrong = array.reshape(-1)[int(np.argmax(overflowed.reshape(-1)))]
        raise UnfitValueError(f"holds {wrong}, which is beyond the range of {datatype}")
    return converted


def _holds_every_value(datatype: str, dtype: np.dtype[Any], source: np.dtype[Any]) -> bool:
    if source.kind == "b":
        return True
    bits = _SIGNIFICAND_BITS.get(datatype)
    if bits is None:
        return source.kind in "iu" and dtype.kind in "iu" and np.can_cast(source, dtype, "safe")
    if source.kind in "iu":
        return source.itemsize * 8 - (source.kind == "i") <= bits
    return source.name in _HOLDS_FLOATS[datatype]


def _bytes_array(value: Any) -> np.ndarray[Any, Any]:
    # Python's strings do not go through numpy's own string dtypes, which drop zero bytes at the end.
    python = isinstance(value, (str, bytes, list, tuple))
    array = np.array(value, dtype=object) if python else host_array(value)
    if array.dtype.kind in "SUT":
        array = array.astype(object)
    if array.dtype != object:
        raise UnfitValueError(f"is {array.dtype.name}, which BYTES does not take: pass bytes or str")
    elements = array.reshape(-1).tolist()
    kinds = set(map(type, elements))
    if kinds <= {bytes}:
        return array
    encoded = np.empty(len(elements), dtype=object)
    try:
        if kinds == {str}:
            encoded[:] = list(map(str.encode, elements))
        else:
            encoded[:] = [_bytes(element) for element in elements]
    except UnicodeEncodeError as error:
        raise UnfitValueError(f"holds a str that is not valid Unicode: {error.reason}") from error
    return encoded.reshape(array.shape)


def _bytes(element: Any) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, (bytes, bytearray, memoryview)):
        return bytes(element)
    raise UnfitValueError(f"holds a {type(element).__name__}, which BYTES does not take: pass bytes or str")


def _name_of(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "O":
        return "Python objects"
    return "strings" if dtype.kind in "SUT" else dtype.name


def _spelling(datatype: str, dtype: np.dtype[Any]) -> str:
    return "ml_dtypes.bfloat16" if datatype == "BF16" else f"numpy.{dtype.name}"
