"""The tensor types of ONNX, of Triton's configuration and of numpy, side by side.

Sources: onnx.proto3 (TensorProto.DataType), model_config.proto (DataType).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

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


STRING = DataType("TYPE_STRING", TensorProto.STRING, np.dtype(np.object_))
BFLOAT16 = DataType("TYPE_BF16", TensorProto.BFLOAT16, np.dtype(np.uint16))
DATA_TYPES = (
    DataType("TYPE_BOOL", TensorProto.BOOL, np.dtype(np.bool_)),
    DataType("TYPE_UINT8", TensorProto.UINT8, np.dtype(np.uint8)),
    DataType("TYPE_UINT16", TensorProto.UINT16, np.dtype(np.uint16)),
    DataType("TYPE_UINT32", TensorProto.UINT32, np.dtype(np.uint32)),
    DataType("TYPE_UINT64", TensorProto.UINT64, np.dtype(np.uint64)),
    DataType("TYPE_INT8", TensorProto.INT8, np.dtype(np.int8)),
    DataType("TYPE_INT16", TensorProto.INT16, np.dtype(np.int16)),
    DataType("TYPE_INT32", TensorProto.INT32, np.dtype(np.int32)),
    DataType("TYPE_INT64", TensorProto.INT64, np.dtype(np.int64)),
    DataType("TYPE_FP16", TensorProto.FLOAT16, np.dtype(np.float16)),
    DataType("TYPE_FP32", TensorProto.FLOAT, np.dtype(np.float32)),
    DataType("TYPE_FP64", TensorProto.DOUBLE, np.dtype(np.float64)),
    STRING,
    BFLOAT16,
)
_BY_ONNX = {data_type.onnx: data_type for data_type in DATA_TYPES}


def from_onnx(number: int) -> DataType | None:
    """The type with this number in TensorProto.DataType; None if Triton has no such type."""
    return _BY_ONNX.get(number)
