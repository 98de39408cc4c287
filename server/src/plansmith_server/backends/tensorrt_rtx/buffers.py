"""Device memory for an engine's inputs and outputs, allocated once, for the largest shapes that it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["Buffers", "TensorPlace", "check"]


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One input or output.

    Attributes:
        name: of the tensor.
        dtype: of the arrays that are copied; bfloat16 travels as its bits in uint16.
        bytes: what it takes at most.
        on_host: whether the engine reads it on the CPU, as it does with shapes.
    """

    name: str
    dtype: np.dtype[Any]
    bytes: int
    on_host: bool


class Buffers:
    """Memory on the device that is current, and the stream that copies to it and from it.

    Args:
        cuda: `cuda.bindings.runtime`.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.stream = int(check(cuda, cuda.cudaStreamCreate()))
        self.addresses: dict[str, int] = {}
        # What the engine reads on the CPU must not move while it does.
        self.on_host: dict[str, NDArray[Any]] = {}

    def allocate(self, places: Iterable[TensorPlace]) -> None:
        """Memory for these, until `close`.

        Raises:
            ModelError: the device has not enough memory.
        """
        cuda = self._cuda
        try:
            for place in places:
                if place.on_host:
                    self.on_host[place.name] = np.zeros(max(1, place.bytes), np.uint8)
                    self.addresses[place.name] = self.on_host[place.name].ctypes.data
                else:
                    self.addresses[place.name] = int(check(cuda, cuda.cudaMalloc(max(1, place.bytes))))
        except ModelError:
            self.close()
            raise

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Copy an array to where the engine reads `name`; it may be changed only after `wait`."""
        if name in self.on_host:
            flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            self.on_host[name][: flat.size] = flat
            return
        cuda = self._cuda
        to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        pointer = self.addresses[name]
        check(cuda, cuda.cudaMemcpyAsync(pointer, array.ctypes.data, array.nbytes, to_device, self.stream))

    def get(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array that holds `name` after `wait`."""
        if name in self.on_host:
            count = math.prod(shape) * dtype.itemsize
            return self.on_host[name][:count].view(dtype).reshape(shape).copy()
        array: NDArray[Any] = np.empty(shape, dtype)
        cuda = self._cuda
        to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(cuda, cuda.cudaMemcpyAsync(array.ctypes.data, self.addresses[name], array.nbytes, to_host, self.stream))
        return array

    def wait(self) -> None:
        """Return when everything that was asked for is done.

        Raises:
            ModelError: CUDA reports an error, of this or an earlier call.
        """
        check(self._cuda, self._cuda.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        """Give the memory back."""
        cuda = self._cuda
        for name, pointer in self.addresses.items():
            if name not in self.on_host:
                cuda.cudaFree(pointer)
        self.addresses.clear()
        cuda.cudaStreamDestroy(self.stream)


def check(cuda: Any, result: tuple[Any, ...]) -> Any:
    """What a call of the CUDA runtime gave.

    Raises:
        ModelError: the call failed.
    """
    status, *values = result
    if status != cuda.cudaError_t.cudaSuccess:
        raise ModelError(f"CUDA reports {status.name}")
    return values[0] if values else None
