"""Which arrays a tensor takes, and which it would be wrong to take.

One rule: a value may be rounded to the precision of the input, and never changed into another.

- Floating types are rounded to the input's (numpy computes in float64, few models do); what would overflow is refused.
- Whole numbers of any type are taken where the input holds every value that is there exactly: int64 for INT32, INT8
  or BOOL where all are in range, uint8 for FP32, int64 for FP32 up to 2**24.
- Fractions are never made whole: float32 is refused for INT64, whatever its values.
- Strings take numpy's arrays of fixed-size strings, and `bytes` and `str` objects; nothing else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.tensors import numpy_dtype_from_datatype

if TYPE_CHECKING:
    from plansmith_build.datasets.ragged import Array

__all__ = ["UnfitArray", "cast"]

# The whole numbers up to 2**bits are all values of a floating type whose significand has that many bits.
_SIGNIFICAND_BITS = {"BF16": 8, "FP16": 11, "FP32": 24, "FP64": 53}


class UnfitArray(Exception):
    """The array does not fit the datatype; the message says why, in words that follow the array's name."""


def cast(array: Array, datatype: str) -> Array:
    """The array as the datatype has it, by the rule of this module.

    Args:
        array: of any dtype.
        datatype: the protocol's.

    Returns:
        The same array where it fits as it is, else a converted copy.

    Raises:
        UnfitArray: it does not fit.
    """
    dtype = numpy_dtype_from_datatype(datatype)
    if datatype == "BYTES":
        return _strings(array)
    if array.dtype == dtype:
        return array
    bfloat16 = array.dtype.name == "bfloat16"
    if array.dtype.kind not in "biuf" and not bfloat16:
        what = "Python objects" if array.dtype.kind == "O" else str(array.dtype)
        raise UnfitArray(f"holds {what}, which {datatype} does not take: save it as numbers")
    if datatype in _SIGNIFICAND_BITS:
        if array.dtype.kind in "iu":
            _check_range(array, 2 ** _SIGNIFICAND_BITS[datatype], -(2 ** _SIGNIFICAND_BITS[datatype]), datatype)
        return _rounded(array, dtype, datatype)
    if array.dtype.kind == "f" or bfloat16:
        raise UnfitArray(
            f"is {array.dtype}, and {datatype} takes whole numbers only: "
            f"save it as {dtype.name}, rounded as the model's training rounded it"
        )
    if datatype == "BOOL":
        _check_range(array, 1, 0, datatype)
    elif array.dtype.kind != "b":
        limits = np.iinfo(dtype)
        _check_range(array, limits.max, limits.min, datatype)
    return array.astype(dtype)


def _check_range(array: Array, largest: int, smallest: int, datatype: str) -> None:
    if not array.size:
        return
    for value in (int(array.min()), int(array.max())):
        if not smallest <= value <= largest:
            raise UnfitArray(f"is {array.dtype} and holds {value}, which {datatype} cannot hold exactly")


def _rounded(array: Array, dtype: np.dtype[Any], datatype: str) -> Array:
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    overflowed = np.isinf(converted) & np.isfinite(array)
    if overflowed.any():
        value = array.reshape(-1)[int(np.argmax(overflowed.reshape(-1)))]
        raise UnfitArray(f"is {array.dtype} and holds {value}, which is beyond the range of {datatype}")
    return converted


def _strings(array: Array) -> Array:
    if array.dtype.kind not in "SUO":
        raise UnfitArray(f"is {array.dtype}, and the input takes strings: save it as an array of fixed-size strings")
    elements = array.reshape(-1).tolist()
    encoded = np.empty(len(elements), dtype=object)
    for index, element in enumerate(elements):
        if not isinstance(element, (bytes, str)):
            raise UnfitArray(f"holds a {type(element).__name__}, and the input takes strings only")
        encoded[index] = element.encode() if isinstance(element, str) else element
    return encoded.reshape(array.shape)
