"""Tensors between Triton's Python backend and numpy."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.datatypes import BFLOAT16, STRING

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["bfloat16_bits", "make_reader", "make_writer"]

# DLPack (dlpack.h): DLManagedTensor begins with a DLTensor {void* data; int32 device[2]; int32 ndim; DLDataType dtype}.
DLPACK_CODE_OFFSET = 20
DLPACK_UINT = 1
DLPACK_BFLOAT = 4

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_rename_capsule = ctypes.pythonapi.PyCapsule_SetName
_rename_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]
# A capsule keeps only a pointer to its name, so this must live on.
CONSUMED = ctypes.c_char_p(b"used_dltensor")


class _Exported:
    """A DLPack capsule in the form that numpy accepts."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU


def bfloat16_bits(capsule: Any) -> NDArray[np.generic]:
    """The bits of a bfloat16 tensor on the CPU, given as a DLPack capsule, as uint16; numpy has no bfloat16."""
    _retag(capsule, DLPACK_UINT)
    bits: NDArray[np.generic] = np.from_dlpack(_Exported(capsule))
    return bits


def make_reader(data_type: str, *, scalar: bool) -> Callable[[Any], NDArray[Any]] | None:
    """A function from a tensor of a request to its array; None where `as_numpy` is enough.

    Args:
        data_type: such as "TYPE_FP32".
        scalar: whether the model takes a tensor without dimensions, which Triton carries with shape [1].
    """
    read: Callable[[Any], NDArray[Any]] | None = {
        STRING: _read_text,
        BFLOAT16: lambda tensor: bfloat16_bits(tensor.to_dlpack()),
    }.get(data_type)
    if not scalar:
        return read
    return lambda tensor: (read(tensor) if read else tensor.as_numpy()).reshape(())


def make_writer(triton: Any, name: str, data_type: str) -> Callable[[NDArray[Any]], Any]:
    """A function from an array to the tensor `name` of a response.

    Args:
        triton: the module triton_python_backend_utils.
        name: of the output.
        data_type: such as "TYPE_FP32".
    """
    tensor, from_dlpack = triton.Tensor, triton.Tensor.from_dlpack

    def write(array: NDArray[Any]) -> Any:
        # A response's tensor has at least one dimension.
        return tensor(name, array if array.ndim else array.reshape(1))

    def write_bfloat16(array: NDArray[Any]) -> Any:
        bits = np.ascontiguousarray(array if array.ndim else array.reshape(1))
        if not bits.flags.writeable:
            bits = bits.copy()  # numpy exports writeable arrays only
        capsule = bits.__dlpack__()
        _retag(capsule, DLPACK_BFLOAT)
        written = from_dlpack(name, capsule)
        # Triton marks what it took with a name of its own, and numpy would free it a second time.
        _rename_capsule(capsule, CONSUMED)
        return written

    return write_bfloat16 if data_type == BFLOAT16 else write


def _read_text(tensor: Any) -> NDArray[Any]:
    raw: NDArray[Any] = tensor.as_numpy()
    text = np.empty(raw.shape, dtype=np.object_)
    try:
        text.reshape(-1)[:] = [item.decode() for item in raw.reshape(-1)]
    except UnicodeDecodeError:
        # ONNX Runtime takes the bytes of such an array as they are, but for zeros at the end.
        return raw.astype(np.bytes_)
    return text


def _retag(capsule: Any, code: int) -> None:
    address = _capsule_pointer(capsule, b"dltensor")
    ctypes.c_uint8.from_address(address + DLPACK_CODE_OFFSET).value = code
