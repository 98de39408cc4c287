"""Requests whose inputs lie in shared memory: registering regions, filling them, and falling back."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from plansmith_client.calling.flows import Send
from plansmith_client.errors import ClientError, DeadlineExceeded, ServerUnavailable
from plansmith_client.inputs.device_tensors import on_host
from plansmith_client.protocol.operations import (
    ListCudaSharedMemory,
    ListSharedMemory,
    ReadServerMetadata,
    RegisterCudaSharedMemory,
    RegisterSharedMemory,
    SharedPlace,
    UnregisterCudaSharedMemory,
    UnregisterSharedMemory,
)
from plansmith_client.shared_memory.cuda import CudaError, CudaRegion
from plansmith_client.shared_memory.owners import is_abandoned
from plansmith_client.shared_memory.regions import RegionPool, padded, sweep_files
from plansmith_client.transports.connections import NO_HEADERS
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from plansmith_client.calling.flows import Flow
    from plansmith_client.protocol.operations import Infer, Operation, Tensor
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.shared_memory.policy import SharedMemoryPolicy
    from plansmith_client.shared_memory.regions import Region

__all__ = ["SharedMemory"]

_EXTENSION = "system_shared_memory"
_UNREGISTER_SECONDS = 1.0


class SharedMemory:
    """The shared memory of one client and one server.

    Args:
        transport: sends operations to the server.
        policy: when to use it.
    """

    def __init__(self, transport: Any, policy: SharedMemoryPolicy) -> None:
        self._transport = transport
        self._policy = policy
        self._lock = threading.Lock()
        self._asked = False
        self._allowed = True
        self._pool = RegionPool(policy)
        self._cuda_allowed = True
        self._cuda_made: list[CudaRegion] = []
        self._cuda_free: list[CudaRegion] = []

    def suits(self, operation: Infer) -> bool:
        """Whether the request's inputs are large enough, and the server is not known to refuse."""
        return self._allowed and _size(operation.inputs) >= self._policy.threshold

    def send(self, operation: Infer, deadline: Deadline, headers: Mapping[str, str]) -> Flow[InferResult]:
        """Send the request with its inputs in shared memory, or in the message if that is not possible.

        Raises:
            ClientError: as for any request.
        """
        if operation.on_device:
            placed = yield from self._placed_on_device(operation, deadline)
            if placed is not None:
                return (yield from self._send_on_device(placed, operation, deadline, headers))
            operation = on_host(operation)
        region = yield from self._ready_region(operation, deadline)
        if region is None:
            plain: InferResult = yield Send(self._transport, operation, deadline, headers)
            return plain
        try:
            result: InferResult = yield Send(self._transport, _placed(operation, region), deadline, headers)
        except (DeadlineExceeded, ServerUnavailable):
            # The server may still read from the region: it is kept until the client is closed.
            raise
        except ClientError as error:
            if not _is_registration_lost(error):
                self._pool.take_back(region)
                raise
            # The server has been restarted, or another client has unregistered the region.
            self._pool.drop(region)
            result = yield Send(self._transport, operation, deadline, headers)
            return result
        self._pool.take_back(region)
        return result

    def _placed_on_device(self, operation: Infer, deadline: Deadline) -> Flow[tuple[CudaRegion, Infer] | None]:
        """The request with its inputs in a region of their GPU's memory; None if the server cannot map one."""
        tensors = [tensor for tensor in operation.inputs if tensor.device is not None]
        if not self._cuda_allowed or len(tensors) < len(operation.inputs):
            return None
        try:
            if not (yield from self._is_offered(deadline)):
                return None
            region = self._cuda_region(tensors)
            if not region.is_registered:
                register = RegisterCudaSharedMemory(region.name, region.handle, region.device, region.size)
                yield from self._ask(register, deadline)
                region.is_registered = True
            offset, placed = 0, []
            for tensor in tensors:
                if tensor.device is not None:
                    region.write(tensor.device, offset)
                placed.append(replace(tensor, device=None, place=SharedPlace(region.name, offset, tensor.array.nbytes)))
                offset += padded(tensor.array.nbytes)
        except (DeadlineExceeded, ServerUnavailable):
            raise
        except (CudaError, ClientError, OSError):
            # No CUDA on one side, or another GPU: this is not tried again.
            self._cuda_allowed = False
            return None
        return region, replace(operation, inputs=tuple(placed), on_device=False)

    def _cuda_region(self, tensors: list[Tensor]) -> CudaRegion:
        size = sum(padded(tensor.array.nbytes) for tensor in tensors)
        device = next(tensor.device.device for tensor in tensors if tensor.device is not None)
        with self._lock:
            for region in self._cuda_free:
                if region.device == device and region.size >= size:
                    self._cuda_free.remove(region)
                    return region
            region = CudaRegion(1 << (size - 1).bit_length(), device)
            self._cuda_made.append(region)
            return region

    def _send_on_device(
        self, placed: tuple[CudaRegion, Infer], operation: Infer, deadline: Deadline, headers: Mapping[str, str]
    ) -> Flow[InferResult]:
        region, request = placed
        try:
            result: InferResult = yield Send(self._transport, request, deadline, headers)
        except (DeadlineExceeded, ServerUnavailable):
            # The server may still read from the region: it is kept until the client is closed.
            raise
        except ClientError as error:
            if not _is_registration_lost(error):
                self._cuda_free.append(region)
                raise
            result = yield Send(self._transport, on_host(operation), deadline, headers)
            return result
        self._cuda_free.append(region)
        return result

    def reopen(self) -> None:
        """Forget the regions: after a fork they belong to the parent."""
        self._lock = threading.Lock()
        self._pool = RegionPool(self._policy)
        # A GPU's memory does not survive a fork.
        self._cuda_allowed = False
        self._cuda_made, self._cuda_free = [], []

    def close(self) -> Flow[None]:
        """Free all regions, after unregistering them from the server."""
        self._allowed = False
        for region in self._pool.drain():
            if region.is_registered:
                # A later client removes what this one cannot.
                with contextlib.suppress(ClientError):
                    yield from self._ask(UnregisterSharedMemory(region.name), Deadline(_UNREGISTER_SECONDS))
            region.close()
        for cuda_region in self._cuda_made:
            with contextlib.suppress(ClientError, CudaError):
                yield from self._ask(UnregisterCudaSharedMemory(cuda_region.name), Deadline(_UNREGISTER_SECONDS))
                cuda_region.close()

    def _ready_region(self, operation: Infer, deadline: Deadline) -> Flow[Region | None]:
        try:
            if not (yield from self._is_offered(deadline)):
                return None
            region = self._pool.lend(sum(padded(tensor.array.nbytes) for tensor in _shareable(operation.inputs)))
        except OSError:
            return None
        if region is None or region.is_registered:
            return region
        try:
            yield from self._ask(RegisterSharedMemory(region.name, region.key, region.size), deadline)
        except (DeadlineExceeded, ServerUnavailable):
            self._pool.drop(region)
            raise
        except ClientError:
            # Disabled, or the server has another /dev/shm: this is not tried again.
            self._pool.drop(region)
            self._allowed = False
            return None
        region.is_registered = True
        region.unlink()
        return region

    def _is_offered(self, deadline: Deadline) -> Flow[bool]:
        with self._lock:
            first, self._asked = not self._asked, True
        if first:
            try:
                metadata = yield from self._ask(ReadServerMetadata(), deadline)
                if _EXTENSION not in metadata.extensions:
                    self._allowed = False
                else:
                    yield from self._sweep(deadline)
            except (DeadlineExceeded, ServerUnavailable):
                self._asked = False
                raise
            except ClientError:
                self._allowed = False
        return self._allowed

    def _sweep(self, deadline: Deadline) -> Flow[None]:
        sweep_files()
        for name in (yield from self._ask(ListSharedMemory(), deadline)):
            if is_abandoned(name):
                # Another client may sweep it at the same time.
                with contextlib.suppress(ClientError):
                    yield from self._ask(UnregisterSharedMemory(name), deadline)

        try:
            for name in (yield from self._ask(ListCudaSharedMemory(), deadline)):
                if is_abandoned(name):
                    with contextlib.suppress(ClientError):
                        yield from self._ask(UnregisterCudaSharedMemory(name), deadline)
        except (DeadlineExceeded, ServerUnavailable):
            raise
        except ClientError:
            self._cuda_allowed = False

    def _ask(self, operation: Operation[Any], deadline: Deadline) -> Flow[Any]:
        return (yield Send(self._transport, operation, deadline, NO_HEADERS))


def _is_registration_lost(error: ClientError) -> bool:
    # Triton's exact message: a model that has run may also fail with an error about shared memory.
    return "unable to find shared memory region" in str(error).lower()


def _shareable(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    # BYTES tensors have no contiguous buffer, and empty tensors have nothing to share.
    return [tensor for tensor in tensors if tensor.array.dtype != object and tensor.array.nbytes]


def _size(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.array.nbytes for tensor in tensors if tensor.array.dtype != object)


def _placed(operation: Infer, region: Region) -> Infer:
    offset, placed = 0, []
    shareable = {tensor.name for tensor in _shareable(operation.inputs)}
    for tensor in operation.inputs:
        if tensor.name not in shareable:
            placed.append(tensor)
            continue
        size = tensor.array.nbytes
        region.write(tensor.array, offset)
        placed.append(replace(tensor, place=SharedPlace(region.name, offset, size)))
        offset += padded(size)
    return replace(operation, inputs=tuple(placed))
