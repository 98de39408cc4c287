# Written by client/unasync.py from async_sequences.py: edit that file, and run `make unasync`.
"""Requests that belong together: a sequence of a stateful model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.calling.sequence_core import SequenceCore

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import ArrayLike
    from typing_extensions import Self

    from plansmith_client.calling.drivers import SyncDriver
    from plansmith_client.calling.model_core import ModelCore
    from plansmith_client.protocol.results import InferResult

__all__ = ["ModelSequence"]


class ModelSequence:
    """The requests of one sequence, in order. Made by `Model.sequence`; for one thread at a time.

    All of them go to one server, and none is ever sent a second time. After an error the sequence has ended.

    Attributes:
        id: the sequence's identifier.
    """

    def __init__(self, core: ModelCore, driver: SyncDriver, sequence_id: int | str | None, timeout: float) -> None:
        self._sequence = SequenceCore(core, sequence_id, timeout)
        self._driver = driver
        self.id = self._sequence.id

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
        return self._driver.run(self._sequence.step(positional, named, last=False))

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
        return self._driver.run(self._sequence.step(positional, named, last=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sequence.leave(failed=error is not None)
