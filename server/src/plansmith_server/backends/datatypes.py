"""The tensor types of Triton's configuration, by their numbers in ONNX.

Sources: onnx.proto3 (TensorProto.DataType), model_config.proto (DataType). The package onnx is not imported: every
backend process imports this module, and not every one reads a model.
"""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["BFLOAT16", "BFLOAT16_IN_ONNX", "BY_ONNX", "STRING"]

# Arrays have numpy's own dtype of each; bfloat16 travels as its bits in uint16, text as objects.
STRING, BFLOAT16 = "TYPE_STRING", "TYPE_BF16"
BFLOAT16_IN_ONNX = 16
BY_ONNX = MappingProxyType(
    {
        1: "TYPE_FP32",
        2: "TYPE_UINT8",
        3: "TYPE_INT8",
        4: "TYPE_UINT16",
        5: "TYPE_INT16",
        6: "TYPE_INT32",
        7: "TYPE_INT64",
        8: STRING,
        9: "TYPE_BOOL",
        10: "TYPE_FP16",
        11: "TYPE_FP64",
        12: "TYPE_UINT32",
        13: "TYPE_UINT64",
        BFLOAT16_IN_ONNX: BFLOAT16,
    }
)
