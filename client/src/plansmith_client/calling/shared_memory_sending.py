"""Requests whose tensors lie in shared memory: registering regions, filling them, and falling back."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plansmith_client.calling.flows import Pause, Send
from plansmith_client.errors import ClientError, DeadlineExceeded, ServerUnavailable
from plansmith_client.inputs.device_tensors import on_host
from plansmith_client.protocol.operations import (
    ListCudaSharedMemory,
    ListSharedMemory,
    OutputPlace,
    ReadServerMetadata,
    RegisterCudaSharedMemory,
    RegisterSharedMemory,
    SharedPlace,
    UnregisterCudaSharedMemory,
    UnregisterSharedMemory,
)
from plansmith_client.shared_memory.cuda import CudaError, CudaRegion
from plansmith_client.shared_memory.owners import is_abandoned
from plansmith_client.shared_memory.pool import RegionPool
from plansmith_client.shared_memory.regions import Region, padded, sweep_files
from plansmith_client.transports.connections import NO_HEADERS
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_client.calling.flows import Flow
    from plansmith_client.protocol.operations import Infer, Operation, Tensor
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.shared_memory.policy import SharedMemoryPolicy

__all__ = ["SharedMemory"]

_EXTENSION = "system_shared_memory"
_UNREGISTER_SECONDS = 1.0
_LETTING_GO_SECONDS = 0.2
_SMALLEST = 2**20
# No memory, no room in /dev/shm, or too many files open.
_PASSING = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
# Earlier servers may end where a region is unregistered that a request still uses (server#7567).
_KEEPS_REGIONS_IN_USE = (2, 50)
_PATIENCE_WITH_EARLIER = 600.0
_LOG = logging.getLogger("plansmith_client")


class SharedMemory:
    """The shared memory of one client and one server.

    Args:
        transport: sends operations to the server.
        policy: when to use it.
        url: the server's, for the log.
    """

    def __init__(self, transport: Any, policy: SharedMemoryPolicy, url: str) -> None:
        self._transport = transport
        self._policy = policy
        self._url = url
        self._allowed = True
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._keeps_regions_in_use = False
        self._cuda_allowed = True
        self._pool: RegionPool[Region] = RegionPool(self._policy.limit)
        self._cuda_pool: RegionPool[CudaRegion] = RegionPool(float("inf"))

    def suits(self, operation: Infer) -> bool:
        """Whether the request's inputs or outputs are large enough, and the server is not known to refuse."""
        threshold = self._policy.threshold
        if not self._allowed:
            return False
        if _size(operation.inputs) >= threshold:
            return True
        metadata = operation.metadata
        if metadata is None or not operation.inputs:
            return False
        shape = operation.inputs[0].array.shape
        # Most answers are small, whatever is asked for.
        most = metadata.fixed_bytes * ((shape and shape[0]) or 1)
        return most >= threshold and sum(self._output_sizes(operation).values()) >= threshold

    def send(self, operation: Infer, deadline: Deadline, headers: Mapping[str, str]) -> Flow[InferResult]:
        """Send the request with its tensors in shared memory, or in the messages if that is not possible.

        Raises:
            ClientError: as for any request.
        """
        placed: tuple[RegionPool[Any], Any, Infer] | None = None
        if operation.on_device:
            placed = yield from self._placed_on_device(operation, deadline)
        if placed is None:
            operation = on_host(operation)
            placed = yield from self._placed(operation, deadline)
        if placed is None:
            plain: InferResult = yield Send(self._transport, operation, deadline, headers)
            return plain
        pool, region, request = placed
        try:
            result: InferResult = yield Send(self._transport, request, deadline, headers)
        except ClientError as error:
            if isinstance(error, (DeadlineExceeded, ServerUnavailable)):
                # The server may still use the region.
                pool.quarantine(region)
                raise
            if not _is_registration_lost(error):
                pool.take_back(region)
                raise
            # The server has been restarted, or another client has unregistered the region.
            pool.drop(region)
            result = yield Send(self._transport, on_host(operation), deadline, headers)
            return result
        except BaseException:
            # Cancelled, or interrupted.
            pool.quarantine(region)
            raise
        pool.take_back(region)
        return result

    def reopen(self) -> None:
        """Forget the regions: after a fork they belong to the parent."""
        self._forget()
        # A GPU's memory does not survive a fork.
        self._cuda_allowed = False

    def close(self) -> Flow[None]:
        """Free all regions, after unregistering them from the server."""
        self._allowed = False
        pools: tuple[RegionPool[Any], ...] = (self._pool, self._cuda_pool)
        # Triton answers a request before it lets go of the request's region, and refuses for that moment.
        again_until = time.monotonic() + _LETTING_GO_SECONDS
        # For all of them together: the server may hang.
        deadline = Deadline(_UNREGISTER_SECONDS)
        for pool in pools:
            free, used = pool.drain()
            for region in (*free, *used):
                is_given_up = self._keeps_regions_in_use or region in free
                if region.is_registered and is_given_up:
                    # A later client removes what this one cannot.
                    is_given_up = yield from self._unregistered(region, deadline)
                    while not is_given_up and region in free and time.monotonic() < again_until:
                        yield Pause(_LETTING_GO_SECONDS / 10)
                        is_given_up = yield from self._unregistered(region, deadline)
                # The server has mapped the host's memory, but only borrowed that of a GPU.
                if is_given_up or isinstance(region, Region):
                    with contextlib.suppress(CudaError):
                        region.close()

    def _placed(self, operation: Infer, deadline: Deadline) -> Flow[tuple[RegionPool[Region], Region, Infer] | None]:
        """The request with its large tensors in a region; None if there is none."""
        threshold = self._policy.threshold
        inputs = _shareable(operation.inputs) if _size(operation.inputs) >= threshold else []
        outputs = self._output_sizes(operation)
        if sum(outputs.values()) < threshold:
            outputs = {}
        region = yield from self._ready_region(
            sum(padded(tensor.array.nbytes) for tensor in inputs) + sum(map(padded, outputs.values())), deadline
        )
        if region is None:
            return None
        offset, tensors = 0, {}
        try:
            for tensor in inputs:
                size = tensor.array.nbytes
                region.write(tensor.array, offset)
                tensors[tensor.name] = tensor._replace(place=SharedPlace(region.name, offset, size))
                offset += padded(size)
        except BaseException:
            # Interrupted before the server knows of the request.
            self._pool.take_back(region)
            raise
        places = {}
        for name, size in outputs.items():
            places[name] = OutputPlace(SharedPlace(region.name, offset, size), region.view(offset, size))
            offset += padded(size)
        wanted = operation.outputs
        if places and wanted is None and operation.metadata is not None:
            wanted = tuple(spec.name for spec in operation.metadata.outputs)
        placed = tuple(tensors.get(tensor.name, tensor) for tensor in operation.inputs)
        return self._pool, region, replace(operation, inputs=placed, outputs=wanted, places=places)

    def _output_sizes(self, operation: Infer) -> dict[str, int]:
        """The bytes of those outputs whose size is known before they come."""
        metadata = operation.metadata
        if metadata is None or operation.classes or not operation.inputs:
            return {}
        rows, wanted = operation.inputs[0].array.shape[:1], operation.outputs
        return {
            name: size * rows[0] if is_batch else size
            for name, size, is_batch in metadata.fixed_outputs
            if wanted is None or name in wanted
        }

    def _ready_region(self, size: int, deadline: Deadline) -> Flow[Region | None]:
        rounded = max(_SMALLEST, 1 << (size - 1).bit_length()) if size else 0
        if not rounded:
            return None
        try:
            if not (yield from self._is_offered(deadline)):
                return None
            yield from self._sweep_quarantine(self._pool, deadline)
            region = self._pool.lend(rounded, lambda: Region(rounded), lambda _: True)
        except OSError as error:
            if error.errno not in _PASSING:
                # What the system lacks or forbids: it may not be Linux, with a /proc and a /dev/shm.
                self._allowed = False
            _LOG.debug("No shared memory with %s, tensors travel in the messages (%s)", self._url, error)
            return None
        if region is None or region.is_registered:
            return region
        try:
            yield from self._ask(RegisterSharedMemory(region.name, region.key, region.size), deadline)
        except ClientError as error:
            if isinstance(error, (DeadlineExceeded, ServerUnavailable)):
                region.unlink()
                self._pool.quarantine(region)
                raise
            # Disabled, or the server has another /dev/shm: this is not tried again.
            self._pool.drop(region)
            self._switch_off(str(error))
            return None
        except BaseException:
            region.unlink()
            self._pool.quarantine(region)
            raise
        region.is_registered = True
        region.unlink()
        return region

    def _switch_off(self, reason: str) -> None:
        with self._lock:
            was_allowed, self._allowed = self._allowed, False
        if was_allowed:
            _LOG.info(
                "No shared memory with %s, tensors travel in the messages (%s). Triton since 26.04 needs the flag "
                "--allow-client-shm=true",
                self._url,
                reason,
            )

    def _sweep_quarantine(self, pool: RegionPool[Any], deadline: Deadline) -> Flow[None]:
        """Ask the server to give up regions of requests that were given up; it refuses while it uses them."""
        waiting = pool.due()
        try:
            while waiting:
                remaining = deadline.remaining()
                wait = _UNREGISTER_SECONDS if remaining is None else min(_UNREGISTER_SECONDS, remaining / 2)
                try:
                    yield from self._ask(_unregister(waiting[-1]), Deadline(wait))
                except (DeadlineExceeded, ServerUnavailable):
                    break
                except ClientError:
                    pool.quarantine(waiting.pop())
                else:
                    pool.drop(waiting.pop())
        finally:
            for region in waiting:
                pool.quarantine(region)
        if pool.quarantined:
            _LOG.debug("Shared memory with %s: %d regions in quarantine", self._url, pool.quarantined)

    def _placed_on_device(
        self, operation: Infer, deadline: Deadline
    ) -> Flow[tuple[RegionPool[CudaRegion], CudaRegion, Infer] | None]:
        """The request with its inputs in a region of their GPU's memory; None if the server cannot map one."""
        tensors = [tensor for tensor in operation.inputs if tensor.device is not None]
        if not self._cuda_allowed or len(tensors) < len(operation.inputs):
            return None
        pool, region = self._cuda_pool, None
        try:
            if not (yield from self._is_offered(deadline)):
                return None
            yield from self._sweep_quarantine(pool, deadline)
            size = sum(padded(tensor.array.nbytes) for tensor in tensors)
            device = next(tensor.device.device for tensor in tensors if tensor.device is not None)
            rounded = 1 << (size - 1).bit_length()
            region = pool.lend(rounded, lambda: CudaRegion(rounded, device), lambda made: made.device == device)
            if region is None:
                return None
            if not region.is_registered:
                register = RegisterCudaSharedMemory(region.name, region.handle, region.device, region.size)
                yield from self._ask(register, deadline)
                region.is_registered = True
            offset, placed = 0, []
            for tensor in tensors:
                if tensor.device is not None:
                    region.write(tensor.device, offset)
                placed.append(tensor._replace(device=None, place=SharedPlace(region.name, offset, tensor.array.nbytes)))
                offset += padded(tensor.array.nbytes)
        except (DeadlineExceeded, ServerUnavailable):
            if region is not None:
                pool.quarantine(region)
            raise
        except (CudaError, ClientError, OSError):
            # No CUDA on one side, or another GPU: this is not tried again.
            self._cuda_allowed = False
            return None
        return pool, region, replace(operation, inputs=tuple(placed), on_device=False)

    def _is_offered(self, deadline: Deadline) -> Flow[bool]:
        with self._lock:
            first, self._asked = not self._asked, True
        if first:
            try:
                metadata = yield from self._ask(ReadServerMetadata(), deadline)
                if _EXTENSION not in metadata.extensions:
                    self._switch_off("the server does not offer it")
                else:
                    self._keeps_regions_in_use = _numbers(metadata.version) >= _KEEPS_REGIONS_IN_USE
                    if not self._keeps_regions_in_use:
                        self._pool.patience = self._cuda_pool.patience = _PATIENCE_WITH_EARLIER
                    yield from self._sweep(deadline)
            except BaseException as error:
                if not isinstance(error, ClientError) or isinstance(error, (DeadlineExceeded, ServerUnavailable)):
                    # Interrupted, too, it has not been asked.
                    self._asked = False
                    raise
                self._switch_off(str(error))
        return self._allowed

    def _sweep(self, deadline: Deadline) -> Flow[None]:
        """Unregister regions of clients of this host that have ended."""
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

    def _unregistered(self, region: Region | CudaRegion, deadline: Deadline) -> Flow[bool]:
        try:
            yield from self._ask(_unregister(region), deadline)
        except ClientError:
            return False
        return True

    def _ask(self, operation: Operation[Any], deadline: Deadline) -> Flow[Any]:
        return (yield Send(self._transport, operation, deadline, NO_HEADERS))


def _is_registration_lost(error: ClientError) -> bool:
    # Triton's exact message: a model that has run may also fail with an error about shared memory.
    return "unable to find shared memory region" in str(error).lower()


def _unregister(region: Region | CudaRegion) -> Operation[bool]:
    return (UnregisterCudaSharedMemory if isinstance(region, CudaRegion) else UnregisterSharedMemory)(region.name)


def _numbers(version: str) -> tuple[int, ...]:
    # Of digits without end Python makes no number.
    return tuple(int(part[:9]) for part in version.split(".")[:2] if part.isascii() and part.isdigit())


def _shareable(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    # BYTES tensors have no contiguous buffer, and empty tensors have nothing to share.
    return [tensor for tensor in tensors if tensor.array.dtype != object and tensor.array.nbytes]


def _size(tensors: tuple[Tensor, ...]) -> int:
    size = 0
    for tensor in tensors:
        if tensor.datatype != "BYTES":
            size += tensor.array.nbytes
    return size
