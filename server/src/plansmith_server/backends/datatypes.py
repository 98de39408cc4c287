"""The tensor types of ONNX, of Triton's configuration and of numpy, side by side.

Sources: onnx.proto3 (TensorProto.DataType), model_config.proto (DataType). The package onnx is not imported: every
backend process imports this module, and not every one reads a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BFLOAT16", "STRING", "DataType", "from_onnx"]


@dataclass(frozen=True, slots=True)
class DataType:
    """One type of tensor.

    Attributes:
        triton: its name in config.pbtxt, such as "TYPE_FP32".
        onnx: its number in TensorProto.DataType.
        numpy: the dtype that carries it here; bfloat16 travels as its bits in uint16, text as objects.
    """

    triton: str
    onnx: int
    numpy: np.dtype[np.generic]


STRING = DataType("TYPE_STRING", 8, np.dtype(np.object_))
BFLOAT16 = DataType("TYPE_BF16", 16, np.dtype(np.uint16))
DATA_TYPES = (
    DataType("TYPE_BOOL", 9, np.dtype(np.bool_)),
    DataType("TYPE_UINT8", 2, np.dtype(np.uint8)),
    DataType("TYPE_UINT16", 4, np.dtype(np.uint16)),
    DataType("TYPE_UINT32", 12, np.dtype(np.uint32)),
    DataType("TYPE_UINT64", 13, np.dtype(np.uint64)),
    DataType("TYPE_INT8", 3, np.dtype(np.int8)),
    DataType("TYPE_INT16", 5, np.dtype(np.int16)),
    DataType("TYPE_INT32", 6, np.dtype(np.int32)),
    DataType("TYPE_INT64", 7, np.dtype(np.int64)),
    DataType("TYPE_FP16", 10, np.dtype(np.float16)),
    DataType("TYPE_FP32", 1, np.dtype(np.float32)),
    DataType("TYPE_FP64", 11, np.dtype(np.float64)),
    STRING,
    BFLOAT16,
)
_BY_ONNX = {data_type.onnx: data_type for data_type in DATA_TYPES}


def from_onnx(number: int) -> DataType | None:
    """The type with this number in TensorProto.DataType; None if Triton has no such type."""
    return _BY_ONNX.get(number)
