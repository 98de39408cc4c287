"""Requests that belong together: a sequence of a stateful model, for an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.calling.sequence_core import SequenceCore

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import ArrayLike
    from typing_extensions import Self

    from plansmith_client.calling.drivers import AsyncDriver
    from plansmith_client.calling.model_core import ModelCore
    from plansmith_client.protocol.results import InferResult

__all__ = ["AsyncModelSequence"]


class AsyncModelSequence:
    """The requests of one sequence, in order. Made by `AsyncModel.sequence`; for one task at a time.

    All of them go to one server, and none is ever sent a second time. After an error the sequence has ended.

    Attributes:
        id: the sequence's identifier.
    """

    def __init__(self, core: ModelCore, driver: AsyncDriver, sequence_id: int | str | None, timeout: float) -> None:
        self._sequence = SequenceCore(core, sequence_id, timeout)
        self._driver = driver
        self.id = self._sequence.id

    async def __call__(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """The next step; the first one begins the sequence. Inputs as for `AsyncModel.__call__`.

        Raises:
            InvalidInput: the inputs do not match, or the sequence has ended.
            ClientError: any other of the errors that `AsyncModel.infer` lists; the sequence has ended then.

        Example:
            ```python
            async with client.model("accumulate").sequence() as sequence:
                await sequence.end([[1.0]])
            ```
        """
        return await self._driver.run(self._sequence.step(positional, named, last=False))

    async def end(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """The last step.

        Raises:
            ClientError: as for any step.

        Example:
            ```python
            async with client.model("accumulate").sequence() as sequence:
                await sequence.end([[1.0]])
            ```
        """
        return await self._driver.run(self._sequence.step(positional, named, last=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sequence.leave(failed=error is not None)
