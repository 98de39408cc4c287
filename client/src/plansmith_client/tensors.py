"""Tensor specifications, and the tables between the protocol's datatypes, numpy's and those of Triton's configuration.

The datatypes are those of the Open Inference Protocol, version 2, with Triton's addition BF16. `BYTES` is a tensor of
byte strings of any length each; in numpy an array of dtype object that holds `bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.errors import InvalidInput, MissingDependency

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONFIG_TYPES",
    "DATATYPES",
    "TensorSpec",
    "config_type_from_datatype",
    "datatype_from_config_type",
    "datatype_from_numpy",
    "numpy_dtype_from_datatype",
]

# The byte order is spelled out: the protocol's is little-endian, whatever the host's.
_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_DATATYPES = {dtype: datatype for datatype, dtype in _NUMPY_DTYPES.items()}

DATATYPES: tuple[str, ...] = (*_NUMPY_DTYPES, "BF16")
"""Every datatype of the protocol."""

CONFIG_TYPES: Mapping[str, str] = MappingProxyType(
    {datatype: "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}" for datatype in DATATYPES}
)
"""Protocol datatype to its name in config.pbtxt: `"FP32"` to `"TYPE_FP32"`, `"BYTES"` to `"TYPE_STRING"`."""

_DATATYPES_BY_CONFIG_TYPE = {config_type: datatype for datatype, config_type in CONFIG_TYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model: name, datatype and shape.

    Attributes:
        name: the tensor's name, unique among the inputs (or outputs) of its model.
        datatype: the protocol's datatype: `"FP32"`, `"INT64"`, `"BYTES"`, ...
        shape: every dimension, including the batch dimension if the model has one; -1 is a dynamic dimension.
        optional: whether a request may leave this input out. From Triton's model configuration; False if unknown.

    Raises:
        InvalidInput: the shape is not a sequence.

    Example:
        ```python
        TensorSpec("images", "FP32", (-1, 3, 224, 224))
        ```
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        try:
            # A caller may have written a list, which could not be looked up.
            object.__setattr__(self, "shape", tuple(self.shape))
        except TypeError as error:
            raise InvalidInput(f"The shape of a tensor must be a sequence of sizes, got {self.shape!r}") from error

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of this tensor's arrays.

        Raises:
            InvalidInput: the datatype is not in `DATATYPES`, or is BF16 and ml_dtypes is not installed.
        """
        return numpy_dtype_from_datatype(self.datatype)

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"


def numpy_dtype_from_datatype(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of a protocol datatype: `"FP32"` to float32, `"BYTES"` to object, `"BF16"` to ml_dtypes.bfloat16.

    Raises:
        InvalidInput: `datatype` is not in `DATATYPES`, or is BF16 and ml_dtypes is not installed.
    """
    dtype = _NUMPY_DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is not None:
        return dtype
    if not isinstance(datatype, str) or datatype != "BF16":
        raise InvalidInput(f"{datatype!r} is not a datatype of the protocol: one of {', '.join(DATATYPES)}")
    try:
        # Imported only when needed: numpy alone is half of the time that importing this package takes.
        import ml_dtypes  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependency("BF16 tensors need the package ml_dtypes: pip install ml_dtypes") from error
    return np.dtype(ml_dtypes.bfloat16)


def datatype_from_numpy(dtype: np.dtype[Any] | type) -> str:
    """The protocol datatype of a numpy dtype, `"BYTES"` for strings and objects.

    Raises:
        InvalidInput: the protocol has no such type (complex numbers, dates, structures, float128), or it is no type.
    """
    try:
        given = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{dtype!r} is not a dtype of numpy") from error
    if given.kind in "SUOT":
        return "BYTES"
    datatype = _DATATYPES.get(given.newbyteorder("<") if given.kind in "iuf" else given)
    if datatype is not None:
        return datatype
    if given.name == "bfloat16":
        return "BF16"
    raise InvalidInput(f"numpy's {given} has no counterpart in the protocol: one of {', '.join(DATATYPES)}")


def config_type_from_datatype(datatype: str) -> str:
    """The type's name in config.pbtxt: `"FP32"` to `"TYPE_FP32"`, `"BYTES"` to `"TYPE_STRING"`.

    Raises:
        InvalidInput: `datatype` is not in `DATATYPES`.
    """
    try:
        return CONFIG_TYPES[datatype]
    except (KeyError, TypeError):
        raise InvalidInput(f"{datatype!r} is not a datatype of the protocol: one of {', '.join(DATATYPES)}") from None


def datatype_from_config_type(config_type: str) -> str:
    """The protocol datatype of a type's name in config.pbtxt: `"TYPE_STRING"` to `"BYTES"`.

    Raises:
        InvalidInput: there is no such type.
    """
    try:
        return _DATATYPES_BY_CONFIG_TYPE[config_type]
    except (KeyError, TypeError):
        raise InvalidInput(
            f"{config_type!r} is not a type of Triton's configuration: one of {', '.join(_DATATYPES_BY_CONFIG_TYPE)}"
        ) from None
