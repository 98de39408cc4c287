"""Inputs in GPU memory: used where they are, or copied to the host if the server cannot read them there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.errors import InvalidInput
from plansmith_client.shared_memory.cuda import CudaError, device_array

if TYPE_CHECKING:
    from plansmith_client.protocol.operations import Infer, Tensor
    from plansmith_client.shared_memory.cuda import DeviceArray

__all__ = ["device_array_from", "on_host", "placeholder"]


def device_array_from(value: Any) -> DeviceArray | None:
    """The contiguous array that a value keeps on a GPU; None for any other value.

    Raises:
        InvalidInput: the value's `__cuda_array_interface__` is wrong.
    """
    if type(value) is np.ndarray or not hasattr(type(value), "__cuda_array_interface__"):
        return None
    try:
        return device_array(value)
    except CudaError as error:
        raise InvalidInput(f"the {type(value).__name__} cannot be read from its GPU: {error}") from error


def placeholder(array: DeviceArray) -> np.ndarray[Any, Any]:
    """An array of the same shape and dtype that takes no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def on_host(operation: Infer) -> Infer:
    """The same request with all its inputs in the host's memory.

    Raises:
        InvalidInput: an input cannot be copied from its GPU.
    """
    if not operation.on_device:
        return operation
    inputs = tuple(_tensor_on_host(operation, tensor) for tensor in operation.inputs)
    return replace(operation, inputs=inputs, on_device=False)


def _tensor_on_host(operation: Infer, tensor: Tensor) -> Tensor:
    if tensor.device is None:
        return tensor
    try:
        return tensor._replace(array=tensor.device.to_host(), device=None)
    except CudaError as error:
        raise InvalidInput(
            f"Model {operation.name!r}, input {tensor.name!r}: it cannot be copied from its GPU: {error}"
        ) from error
