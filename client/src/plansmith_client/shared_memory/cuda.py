"""Arrays that lie on a GPU, and regions of its memory that a server can map: CUDA shared memory.

Arrays of other libraries are recognized by the CUDA Array Interface
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html): torch, cupy, numba. It is copied once, from
device to device, where client and server share a host and a GPU; otherwise to the host's memory, and on from there.
Needs the package cuda-bindings (`pip install cuda-bindings`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from plansmith_client.shared_memory.owners import make_region_name

__all__ = ["CudaError", "CudaRegion", "DeviceArray", "device_array"]


class CudaError(Exception):
    """CUDA, its Python bindings or its driver are missing, or a call of it failed."""


class DeviceArray(NamedTuple):
    """An array on a GPU, contiguous and row-major.

    Attributes:
        shape: its shape.
        dtype: its dtype.
        pointer: the address on the device.
        owner: the object whose memory it is, which is kept alive.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pointer: int
    owner: Any

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def device(self) -> int:
        """The number of the GPU.

        Raises:
            CudaError: CUDA does not know the pointer.
        """
        return int(_call("cudaPointerGetAttributes", self.pointer).device)

    def to_host(self) -> np.ndarray[Any, Any]:
        """A copy in the host's memory.

        Raises:
            CudaError: it could not be copied.
        """
        array: np.ndarray[Any, Any] = np.empty(self.shape, self.dtype)
        if array.nbytes:
            _copy(array.ctypes.data, self.pointer, array.nbytes)
        return array


def device_array(value: Any) -> DeviceArray | None:
    """The array that a value keeps on a GPU; None if it has none there, or one that is not contiguous.

    Raises:
        CudaError: the value's `__cuda_array_interface__` is not valid.
    """
    try:
        described = getattr(value, "__cuda_array_interface__", None)
    except (AttributeError, RuntimeError, TypeError):
        # torch raises for tensors that are not on a GPU, or that need a gradient.
        return None
    if described is None:
        return None
    try:
        shape = tuple(int(size) for size in described["shape"])
        dtype, pointer = np.dtype(described["typestr"]), int(described["data"][0])
        strides = described.get("strides")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CudaError(f"its __cuda_array_interface__ is not valid ({error})") from error
    # Without strides it is contiguous, by the interface.
    if strides is not None and tuple(strides) != _contiguous(shape, dtype):
        return None
    return DeviceArray(shape, dtype, pointer, value)


def _contiguous(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    strides, step = [], dtype.itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


class CudaRegion:
    """Memory of a GPU that a server can map by a handle.

    Args:
        size: bytes.
        device: the number of the GPU.

    Raises:
        CudaError: not enough memory, or the device does not support sharing it.
    """

    def __init__(self, size: int, device: int) -> None:
        self.name = make_region_name()
        self.size = size
        self.device = device
        self.is_registered = False
        before = _call("cudaGetDevice")
        _call("cudaSetDevice", device)
        try:
            self._pointer = int(_call("cudaMalloc", size))
            self._handle = _call("cudaIpcGetMemHandle", self._pointer)
        finally:
            _call("cudaSetDevice", before)

    @property
    def handle(self) -> bytes:
        """What the server opens: the 64 bytes of a `cudaIpcMemHandle_t`."""
        import ctypes  # noqa: PLC0415 - not every build of Python has it

        size = _runtime().CUDA_IPC_HANDLE_SIZE
        return bytes((ctypes.c_char * size).from_address(self._handle.getPtr()))

    def write(self, array: DeviceArray, offset: int) -> None:
        """Copy an array to an offset, on the device.

        Raises:
            CudaError: it could not be copied.
        """
        _copy(self._pointer + offset, array.pointer, array.nbytes)

    def close(self) -> None:
        """Free the memory."""
        _call("cudaFree", self._pointer)


def _copy(target: int, source: int, size: int) -> None:
    runtime = _runtime()
    # The kind follows from the addresses; the call returns when the copy is done and ordered after the default stream.
    _call("cudaMemcpy", target, source, size, runtime.cudaMemcpyKind.cudaMemcpyDefault)
    _call("cudaDeviceSynchronize")


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime  # noqa: PLC0415 - heavy, and only where there is a GPU
    except ImportError as error:
        raise CudaError("the package cuda-bindings is missing: pip install cuda-bindings") from error
    return runtime


def _call(name: str, *arguments: Any) -> Any:
    try:
        status, *results = getattr(_runtime(), name)(*arguments)
    except RuntimeError as error:
        # The bindings load CUDA's libraries with their first call.
        raise CudaError(f"{name} cannot be called: {error}") from error
    if int(status):
        raise CudaError(f"{name} failed with {status.name}")
    return results[0] if results else None
