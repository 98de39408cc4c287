"""Requests that belong together: a sequence of a stateful model."""

from __future__ import annotations

import secrets
import warnings
from typing import TYPE_CHECKING

from plansmith_client.deadlines import Deadline
from plansmith_client.errors import ClientError, InvalidInput, ServerUnavailable
from plansmith_client.model_core import ModelCore, Wish

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from numpy.typing import ArrayLike
    from typing_extensions import Self

    from plansmith_client.drivers import AsyncDriver, SyncDriver
    from plansmith_client.flows import Flow
    from plansmith_client.results import InferResult
    from plansmith_client.servers import Server

__all__ = ["AsyncModelSequence", "ModelSequence"]

_LARGEST_ID = 2**63 - 1


class _State:
    """A sequence: its identifier, the server that keeps it, and how far it is."""

    def __init__(self, core: ModelCore, sequence_id: int | str | None, timeout: float) -> None:
        if isinstance(sequence_id, bool) or not (
            sequence_id is None
            or (isinstance(sequence_id, int) and 0 < sequence_id <= _LARGEST_ID)
            or (isinstance(sequence_id, str) and sequence_id)
        ):
            raise InvalidInput(f"sequence_id={sequence_id!r} is neither an integer from 1 nor a string")
        Deadline(timeout)
        self.core = core
        self.id = sequence_id or secrets.randbelow(_LARGEST_ID) + 1
        self.timeout = timeout
        self.is_started = False
        self.is_ended = False
        self._server: Server | None = None

    def step(
        self, positional: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike], *, last: bool
    ) -> Flow[InferResult]:
        """One step, never sent twice: after a fault nobody knows whether the server has taken it."""
        core, deadline = self.core, Deadline(self.timeout)
        if self.is_ended:
            raise InvalidInput(f"Model {core.name!r}: the sequence {self.id} has ended; begin another one")
        inputs = yield from core.bind(positional, named, deadline)
        metadata = yield from core.read_metadata(deadline)
        parameters = {"sequence_id": self.id, "sequence_start": not self.is_started, "sequence_end": last}
        operation = core.request(metadata, inputs, Wish(parameters=parameters))
        if self._server is None:
            self._server = yield from core.caller.pick(deadline)
        try:
            result = yield from core.caller.call_one(self._server, operation, deadline)
        except InvalidInput:
            raise
        except ClientError as error:
            self.is_ended = True
            if isinstance(error, ServerUnavailable):
                core.caller.servers.failed(self._server, error)
            raise
        self.is_started, self.is_ended = True, last
        core.noticed(result)
        return result

    def leave(self, *, failed: bool) -> None:
        """The block of the sequence has been left."""
        if self.is_started and not self.is_ended and not failed:
            warnings.warn(
                f"Model {self.core.name!r}: the sequence {self.id} was left without end(...): the server keeps its "
                "place until max_sequence_idle_microseconds have passed",
                ResourceWarning,
                stacklevel=3,
            )
        self.is_ended = True


class ModelSequence:
    """The requests of one sequence, in order. Made by `Model.sequence`; for one thread at a time.

    All of them go to one server, and none is ever sent a second time. After an error the sequence has ended.

    Attributes:
        id: the sequence's identifier.

    Example:
        ```python
        with client.model("accumulate").sequence() as sequence:
            sequence([[1.0]])
            total = sequence.end([[2.0]]).array  # [[3.0]]
        ```
    """

    def __init__(self, core: ModelCore, driver: SyncDriver, sequence_id: int | str | None, timeout: float) -> None:
        self._state = _State(core, sequence_id, timeout)
        self._driver = driver
        self.id = self._state.id

    def __call__(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """The next step; the first one begins the sequence. Inputs as for `Model.__call__`.

        Raises:
            InvalidInput: the inputs do not match, or the sequence has ended.
            ClientError: any other of the errors that `Model.infer` lists; the sequence has ended then.

        Example:
            ```python
            with client.model("accumulate").sequence() as sequence:
                sequence.end([[1.0]])
            ```
        """
        return self._driver.run(self._state.step(positional, named, last=False))

    def end(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """The last step.

        Raises:
            ClientError: as for any step.

        Example:
            ```python
            with client.model("accumulate").sequence() as sequence:
                sequence.end([[1.0]])
            ```
        """
        return self._driver.run(self._state.step(positional, named, last=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state.leave(failed=error is not None)


class AsyncModelSequence:
    """The same for an event loop. Made by `AsyncModel.sequence`; for one task at a time.

    Attributes:
        id: the sequence's identifier.

    Example:
        ```python
        async with client.model("accumulate").sequence() as sequence:
            await sequence([[1.0]])
            total = (await sequence.end([[2.0]])).array
        ```
    """

    def __init__(self, core: ModelCore, driver: AsyncDriver, sequence_id: int | str | None, timeout: float) -> None:
        self._state = _State(core, sequence_id, timeout)
        self._driver = driver
        self.id = self._state.id

    async def __call__(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """The next step; see `ModelSequence.__call__`.

        Raises:
            InvalidInput: the inputs do not match, or the sequence has ended.
            ClientError: any other of the errors that `Model.infer` lists; the sequence has ended then.

        Example:
            ```python
            async with client.model("accumulate").sequence() as sequence:
                await sequence.end([[1.0]])
            ```
        """
        return await self._driver.run(self._state.step(positional, named, last=False))

    async def end(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """The last step; see `ModelSequence.end`.

        Raises:
            ClientError: as for any step.

        Example:
            ```python
            async with client.model("accumulate").sequence() as sequence:
                await sequence.end([[1.0]])
            ```
        """
        return await self._driver.run(self._state.step(positional, named, last=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state.leave(failed=error is not None)
