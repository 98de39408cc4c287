"""The state of a sequence: its steps go to one server, in order, and none is sent a second time."""

from __future__ import annotations

import secrets
import warnings
from typing import TYPE_CHECKING

from plansmith_client.calling.model_core import InferOptions, ModelCore
from plansmith_client.errors import ClientError, InvalidInput, ServerUnavailable
from plansmith_client.inputs.validation import bind_inputs
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from plansmith_client.calling.flows import Flow
    from plansmith_client.calling.servers import Server
    from plansmith_client.protocol.results import InferResult

__all__ = ["SequenceCore"]

_LARGEST_ID = 2**63 - 1


class SequenceCore:
    """A sequence: its identifier, the server that keeps its state, and whether it has started or ended."""

    def __init__(self, core: ModelCore, sequence_id: int | str | None, timeout: float) -> None:
        if isinstance(sequence_id, bool) or not (
            sequence_id is None
            or (isinstance(sequence_id, int) and 0 < sequence_id <= _LARGEST_ID)
            or (isinstance(sequence_id, str) and sequence_id)
        ):
            raise InvalidInput(f"sequence_id must be a whole number from 1 or a non-empty string, got {sequence_id!r}")
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
        """One step, never retried: after a failure it is unknown whether the server has taken it."""
        core, deadline = self.core, Deadline(self.timeout)
        if self.is_ended:
            raise InvalidInput(f"Model {core.name!r}: the sequence {self.id} has ended, or a step of it is under way")
        parameters = {"sequence_id": self.id, "sequence_start": not self.is_started, "sequence_end": last}
        options = InferOptions(parameters=parameters)
        operation = yield from core.by_metadata(
            lambda known: core.request(known, bind_inputs(known, positional, named), options), deadline, own=True
        )
        if self._server is None:
            self._server = yield from core.caller.pick(deadline)
        # Cancelled or interrupted, too, it is unknown whether the server has taken the step.
        self.is_ended = True
        try:
            result = yield from core.caller.call_one(self._server, operation, deadline)
        except InvalidInput:
            self.is_ended = False
            core.forget()
            raise
        except ClientError as error:
            if isinstance(error, ServerUnavailable):
                core.caller.servers.failed(self._server, error)
            raise (yield from core.refused(error, deadline)) from error.__cause__
        self.is_started = True
        if not core.matches(operation, result):
            result = yield from core.checked(operation, result, deadline)
        self.is_ended = last
        return result

    def leave(self, *, failed: bool) -> None:
        """The block of the sequence has been left."""
        if self.is_started and not self.is_ended and not failed:
            warnings.warn(
                f"Model {self.core.name!r}: the sequence {self.id} was left without end(...): the server keeps its "
                "state until max_sequence_idle_microseconds have passed",
                ResourceWarning,
                stacklevel=3,
            )
        self.is_ended = True
