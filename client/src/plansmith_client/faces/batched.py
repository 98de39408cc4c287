"""Single calls of many callers in one process, sent as batches: `Model.batched` and `AsyncModel.batched`.

There is no background thread: the first caller of a batch waits for others, sends the batch, and hands out the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.calling.model_core import InferOptions, ModelCore
from plansmith_client.errors import ClientError, DeadlineExceeded, InferenceFailed, InvalidInput
from plansmith_client.inputs.validation import bind_inputs, has_free_rows, is_whole
from plansmith_client.protocol.results import InferResult, with_outputs
from plansmith_client.protocol.splitting import check_rows
from plansmith_client.transports.deadlines import Deadline, seconds_from
from plansmith_client.transports.forks import reopen_in_children

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from plansmith_client.calling.drivers import AsyncDriver, SyncDriver
    from plansmith_client.calling.flows import Flow
    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.protocol.operations import Infer

__all__ = ["AsyncBatchedModel", "BatchedModel"]


@dataclass(eq=False)
class _Entry:
    """One caller's request and its outcome."""

    request: Infer
    arrived: Any
    outcome: InferResult | Exception | None = None

    @property
    def rows(self) -> int:
        return len(self.request.inputs[0].array)


@dataclass(eq=False)
class _Group:
    """Requests that go into one batch, and what wakes the first caller when no more fit."""

    full: Any
    entries: list[_Entry] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.entries)


# A day: longer than anybody waits for a batch, and as long as threads can wait.
_LONGEST = 86_400


class _Groups:
    """The batches that are being gathered, one for each kind of request."""

    def __init__(self, core: ModelCore, max_delay: float, max_batch_size: int | None, timeout: float) -> None:
        delay = seconds_from(max_delay)
        if not 0 <= delay <= _LONGEST:
            raise InvalidInput(f"max_delay={max_delay!r} is not a number of seconds from 0 to {_LONGEST}")
        if max_batch_size is not None and (not is_whole(max_batch_size) or max_batch_size < 1):
            raise InvalidInput(f"max_batch_size={max_batch_size!r} is not a number of rows from 1")
        Deadline(timeout)
        self.core = core
        self.max_delay = delay
        self.timeout = timeout
        self._most = max_batch_size
        self.reopen()
        reopen_in_children(self)

    def reopen(self) -> None:
        """Start afresh in the child of a fork, where nobody sends what the parent's threads were gathering."""
        self._groups: dict[Any, _Group] = {}
        self.lock = threading.Lock()

    def delay(self, deadline: Deadline) -> float:
        """Seconds that the first caller waits for others, never beyond its own deadline."""
        try:
            remaining = deadline.remaining()
        except DeadlineExceeded:
            # Sending says so, to all callers of the batch.
            return 0.0
        return self.max_delay if remaining is None else min(self.max_delay, remaining)

    def checked(
        self, positional: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike], deadline: Deadline
    ) -> Flow[tuple[Infer, int]]:
        """The request of a call, and the largest batch."""
        return (yield from self.core.by_metadata(lambda known: self._request(known, positional, named), deadline))

    def _request(
        self, metadata: ModelMetadata, positional: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike]
    ) -> tuple[Infer, int]:
        largest = metadata.max_batch_size or (self._most if has_free_rows(metadata) else None)
        if not largest:
            raise InvalidInput(
                f"Model {self.core.name!r} does not batch: call it without batched()"
                if not has_free_rows(metadata)
                else f"Model {self.core.name!r}: the server names no largest batch: pass batched(max_batch_size=)"
            )
        inputs = bind_inputs(metadata, positional, named)
        if not inputs:
            raise InvalidInput(f"Model {self.core.name!r}: batched() needs at least one input with rows")
        most = min(largest, self._most or largest)
        request = self.core.request(metadata, inputs, InferOptions())
        rows = {tensor.array.shape[:1] for tensor in request.inputs}
        if len(rows) > 1 or not all(any(shape) for shape in rows):
            shapes = {tensor.name: list(tensor.array.shape) for tensor in request.inputs}
            raise InvalidInput(
                f"Model {self.core.name!r}: batched() needs one number of rows, from 1, in all inputs: given {shapes}"
            )
        return request, most

    def join(self, entry: _Entry, most: int, full: Any) -> _Group | None:
        """Put an entry into the group that it fits; returns the group to its first caller, who has to send it."""
        key = tuple((tensor.name, tensor.datatype, tensor.array.shape[1:]) for tensor in entry.request.inputs)
        with self.lock:
            group = self._groups.get(key)
            if group is not None and group.rows + entry.rows > most:
                group.full.set()
                group = None
            first = group is None
            if group is None:
                group = self._groups[key] = _Group(full)
            group.entries.append(entry)
            if group.rows >= most:
                group.full.set()
                self._groups.pop(key, None)
            return group if first else None

    def closed(self, group: _Group) -> list[_Entry]:
        """The entries of a group, which takes no more."""
        with self.lock:
            for key, known in list(self._groups.items()):
                if known is group:
                    del self._groups[key]
            return group.entries

    def send(self, entries: list[_Entry], deadline: Deadline) -> Flow[None]:
        """Send the entries as one batch, and give each its part of the result."""
        try:
            whole = yield from self.core.ask(_joined(entries), deadline)
            if len(entries) == 1:
                entries[0].outcome = whole
                return
            check_rows(whole, sum(entry.rows for entry in entries))
            first = 0
            for entry in entries:
                rows = slice(first, first + entry.rows)
                entry.outcome = with_outputs(whole, {name: array[rows] for name, array in whole.items()})
                first += entry.rows
        except (InvalidInput, InferenceFailed) as error:
            if len(entries) == 1:
                entries[0].outcome = error
                return
            # One of them is at fault: each is asked on its own.
            for entry in entries:
                yield from self.send([entry], deadline)
        except Exception as error:  # noqa: BLE001 - an observer's, too, is for every caller
            for entry in entries:
                entry.outcome = error


def _joined(entries: list[_Entry]) -> Infer:
    if len(entries) == 1:
        return entries[0].request
    tensors = tuple(
        tensor._replace(array=np.concatenate([entry.request.inputs[place].array for entry in entries]))
        for place, tensor in enumerate(entries[0].request.inputs)
    )
    return replace(entries[0].request, inputs=tensors)


def _outcome(entry: _Entry) -> InferResult:
    if isinstance(entry.outcome, InferResult):
        return entry.outcome
    # One of ours may go to several callers: each gets its own, so that tracebacks do not mix.
    error = entry.outcome or InferenceFailed("The caller that gathered this batch was interrupted: call again")
    if not isinstance(error, ClientError):
        raise error
    raise type(error)(*error.args) from error


class BatchedModel:
    """A model whose single calls, from many threads, are sent as batches. Made by `Model.batched`.

    Example:
        ```python
        batched = client.model("digits").batched(max_delay=0.002)
        batched(images[:1])  # in each of many threads
        ```
    """

    def __init__(
        self, core: ModelCore, driver: SyncDriver, *, max_delay: float, max_batch_size: int | None, timeout: float
    ) -> None:
        self._groups = _Groups(core, max_delay, max_batch_size, timeout)
        self._driver = driver

    def __call__(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """Run the model on a few rows, together with those of other threads.

        Args:
            positional: inputs by position, each [rows, ...].
            named: inputs by name.

        Raises:
            ClientError: as `Model.__call__`; an error in another caller's rows fails only that caller's call.

        Example:
            ```python
            client.model("digits").batched()(images[:1]).array
            ```
        """
        groups = self._groups
        deadline = Deadline(groups.timeout)
        request, most = self._driver.run(groups.checked(positional, named, deadline))
        if request.inputs[0].array.shape[0] > most:
            return self._driver.run(groups.core.call(positional, named, deadline))
        entry = _Entry(request, threading.Event())
        group = groups.join(entry, most, threading.Event())
        if group is not None:
            try:
                group.full.wait(groups.delay(deadline))
                self._driver.run(groups.send(groups.closed(group), deadline))
            finally:
                # Even after Ctrl-C: other callers must not wait for a batch that nobody sends.
                for waiting in groups.closed(group):
                    waiting.arrived.set()
        else:
            entry.arrived.wait(deadline.remaining())
            deadline.remaining()
        return _outcome(entry)


class AsyncBatchedModel:
    """The same for the tasks of an event loop. Made by `AsyncModel.batched`.

    Example:
        ```python
        batched = client.model("digits").batched(max_delay=0.002)
        await batched(images[:1])  # in each of many tasks
        ```
    """

    def __init__(
        self, core: ModelCore, driver: AsyncDriver, *, max_delay: float, max_batch_size: int | None, timeout: float
    ) -> None:
        self._groups = _Groups(core, max_delay, max_batch_size, timeout)
        self._driver = driver
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """Run the model on a few rows, together with those of other tasks; see `BatchedModel.__call__`.

        Raises:
            ClientError: as `Model.__call__`; an error in another caller's rows fails only that caller's call.

        Example:
            ```python
            (await client.model("digits").batched()(images[:1])).array
            ```
        """
        groups = self._groups
        deadline = Deadline(groups.timeout)
        request, most = await self._driver.run(groups.checked(positional, named, deadline))
        if request.inputs[0].array.shape[0] > most:
            return await self._driver.run(groups.core.call(positional, named, deadline))
        entry = _Entry(request, asyncio.Event())
        group = groups.join(entry, most, asyncio.Event())
        if group is not None:
            # A task of its own: cancelling the caller that came first must not fail the others.
            sending = asyncio.ensure_future(self._gather(group, deadline))
            self._tasks.add(sending)
            sending.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait_for(entry.arrived.wait(), deadline.remaining())
        except asyncio.TimeoutError:
            deadline.remaining()
        return _outcome(entry)

    async def _gather(self, group: _Group, deadline: Deadline) -> None:
        groups = self._groups
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(group.full.wait(), groups.delay(deadline))
            await self._driver.run(groups.send(groups.closed(group), deadline))
        finally:
            for entry in groups.closed(group):
                entry.arrived.set()
