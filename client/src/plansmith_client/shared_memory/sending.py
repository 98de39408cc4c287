"""Requests whose inputs lie in shared memory: registering regions, filling them, and going back to the usual way."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from plansmith_client.deadlines import Deadline
from plansmith_client.errors import ClientError, DeadlineExceeded, ServerUnavailable
from plansmith_client.flows import NO_HEADERS, Send
from plansmith_client.operations import (
    ListSharedMemory,
    ReadServerMetadata,
    RegisterSharedMemory,
    SharedPlace,
    UnregisterSharedMemory,
)
from plansmith_client.shared_memory.owners import is_abandoned
from plansmith_client.shared_memory.regions import RegionPool, padded, sweep_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from plansmith_client.flows import Flow
    from plansmith_client.operations import Infer, Operation, Tensor
    from plansmith_client.results import InferResult
    from plansmith_client.shared_memory.policy import SharedMemoryPolicy
    from plansmith_client.shared_memory.regions import Region

__all__ = ["SharedMemory"]

_EXTENSION = "system_shared_memory"
_PARTING_SECONDS = 1.0


class SharedMemory:
    """What one client shares with one server.

    Args:
        transport: carries messages to the server.
        policy: when to use it.
    """

    def __init__(self, transport: Any, policy: SharedMemoryPolicy) -> None:
        self._transport = transport
        self._policy = policy
        self._lock = threading.Lock()
        self._asked = False
        self._allowed = True
        self._pool = RegionPool(policy)

    def suits(self, operation: Infer) -> bool:
        """Whether the request's inputs are large enough, and the server is not known to refuse."""
        return self._allowed and _size(operation.inputs) >= self._policy.threshold

    def send(self, operation: Infer, deadline: Deadline, headers: Mapping[str, str]) -> Flow[InferResult]:
        """Send the request with its inputs in shared memory, or in itself where that cannot be.

        Raises:
            ClientError: as any request.
        """
        region = yield from self._ready_region(operation, deadline)
        if region is None:
            plain: InferResult = yield Send(self._transport, operation, deadline, headers)
            return plain
        try:
            result: InferResult = yield Send(self._transport, _placed(operation, region), deadline, headers)
        except (DeadlineExceeded, ServerUnavailable):
            # The server may still read from it: it stays as it is until the client is closed.
            raise
        except ClientError as error:
            if "shared memory" not in str(error).lower():
                self._pool.take_back(region)
                raise
            # The server has been restarted, or somebody took the registration away.
            self._pool.drop(region)
            result = yield Send(self._transport, operation, deadline, headers)
            return result
        self._pool.take_back(region)
        return result

    def reopen(self) -> None:
        """Forget the regions: after a fork they are the parent's."""
        self._lock = threading.Lock()
        self._pool = RegionPool(self._policy)

    def close(self) -> Flow[None]:
        """Give all regions back, the server's part of them too."""
        self._allowed = False
        for region in self._pool.drain():
            if region.is_registered:
                # A later client sweeps what this one cannot.
                with contextlib.suppress(ClientError):
                    yield from self._ask(UnregisterSharedMemory(region.name), Deadline(_PARTING_SECONDS))
            region.close()

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
            # Switched off, or the server has another /dev/shm: it will not be asked again.
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

    def _ask(self, operation: Operation[Any], deadline: Deadline) -> Flow[Any]:
        return (yield Send(self._transport, operation, deadline, NO_HEADERS))


def _shareable(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    # BYTES have no buffer to copy at once; tensors without elements have nothing to share.
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
