"""Tensors between numpy and OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from plansmith_server.backends.datatypes import BFLOAT16

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ELEMENT_TYPES", "data_type_name", "read_output", "to_input"]

# Triton's name: OpenVINO's element type. Text is left out, as in the native backend: the CPU plugin copies its strings
# byte by byte, and two tensors then free the same memory.
ELEMENT_TYPES = {
    "TYPE_BOOL": openvino.Type.boolean,
    "TYPE_UINT8": openvino.Type.u8,
    "TYPE_UINT16": openvino.Type.u16,
    "TYPE_UINT32": openvino.Type.u32,
    "TYPE_UINT64": openvino.Type.u64,
    "TYPE_INT8": openvino.Type.i8,
    "TYPE_INT16": openvino.Type.i16,
    "TYPE_INT32": openvino.Type.i32,
    "TYPE_INT64": openvino.Type.i64,
    "TYPE_FP16": openvino.Type.f16,
    "TYPE_FP32": openvino.Type.f32,
    "TYPE_FP64": openvino.Type.f64,
    "TYPE_BF16": openvino.Type.bf16,
}


def data_type_name(element_type: Any) -> str | None:
    """Triton's name of an element type; None if Triton has no such type."""
    return next((name for name, known in ELEMENT_TYPES.items() if known == element_type), None)


def to_input(array: NDArray[Any], data_type: str) -> Any:
    """An OpenVINO tensor over `array`, sharing its memory where possible.

    Args:
        array: of that type; bfloat16 as its bits in uint16.
        data_type: such as "TYPE_FP32".
    """
    if data_type == BFLOAT16:
        return openvino.Tensor(np.ascontiguousarray(array), openvino.Shape(array.shape), openvino.Type.bf16)
    if not array.flags.c_contiguous:
        array = array.copy()
    return openvino.Tensor(array, shared_memory=array.size > 0)


def read_output(tensor: Any, data_type: str) -> NDArray[np.generic]:
    """A copy of an output: the next run writes into the same memory.

    Args:
        tensor: of the request that computed it.
        data_type: such as "TYPE_FP32".
    """
    array: NDArray[np.generic] = np.array(tensor.data)
    # OpenVINO returns bfloat16 as float16 with the same bits.
    return array.view(np.uint16) if data_type == BFLOAT16 else array
