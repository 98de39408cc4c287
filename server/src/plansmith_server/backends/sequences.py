"""Implicit state of sequences: what a model remembers of a stream between its requests.

Triton's core gives a Python-based backend the initial state with every request, read from `initial_state`, and has no
way to take a new one from it. So the states are kept here, in the process of the instance that the sequence batcher
bound the sequence to.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.batching import Answering
from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from plansmith_server.backends.batching import Arrays
    from plansmith_server.backends.config import ModelConfig
    from plansmith_server.backends.engine import Engine

__all__ = ["SequenceAnswering", "States"]

SequenceId = int | str


class States:
    """The states of the sequences that have begun and not ended, by their ids.

    Args:
        idle_seconds: a state that nothing asked for so long is dropped.
        clock: seconds, for tests.
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle = idle_seconds
        self._clock = clock
        # The one that was used last stands last.
        self._kept: dict[SequenceId, tuple[float, Arrays]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def drop_idle(self, but: Sequence[SequenceId]) -> None:
        """Drop what was idle for too long, except the states of the sequences in `but`."""
        now = self._clock()
        for sequence in but:
            if sequence in self._kept:
                self._kept[sequence] = (now, self._kept.pop(sequence)[1])
        while self._kept:
            oldest = next(iter(self._kept))
            if now - self._kept[oldest][0] <= self._idle:
                return
            del self._kept[oldest]

    def of(self, sequence: SequenceId) -> Arrays:
        """The state of a sequence, arrays by the names of inputs.

        Raises:
            RequestError: there is none.
        """
        if sequence not in self._kept:
            raise RequestError(
                f"sequence {sequence!r} has no state: its first request failed, or nothing came for"
                f" {self._idle:g} seconds: begin it again"
            )
        return self._kept[sequence][1]

    def keep(self, sequence: SequenceId, state: Arrays) -> None:
        """Replace the state of a sequence by `state`."""
        self._kept.pop(sequence, None)
        self._kept[sequence] = (self._clock(), state)

    def drop(self, sequence: SequenceId) -> None:
        """Forget a sequence."""
        self._kept.pop(sequence, None)


class SequenceAnswering(Answering):
    """Answers requests of sequences, each with the state that the request before it left.

    A request that fails leaves the state as it was, except that one which begins a sequence ends the one that had its
    id before. The arguments are those of `Answering`.
    """

    def __init__(self, engine: Engine, config: ModelConfig, triton: Any, *, text_as_bytes: bool = False) -> None:
        super().__init__(engine, config, triton, text_as_bytes=text_as_bytes)
        self._input_of = {state.output.name: state.input.name for state in config.states}
        # The core ends a sequence by its own clock, and a request that it let in may wait for its turn.
        self._states = States(2 * config.sequence_idle_seconds)
        # What the requests of a run leave; None where a sequence ends.
        self._next: dict[SequenceId, Arrays | None] = {}
        self._start = triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
        self._end = triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in their order; never raises for what a request holds."""
        # With the strategy "direct", Triton fills the slots of sequences that have no request: nobody has the id 0.
        asked = [request for request in requests if request.correlation_id()]
        self._states.drop_idle([request.correlation_id() for request in asked])
        answers = super().answer(asked)
        if len(asked) == len(requests):
            return answers
        following = iter(answers)
        error = self._triton.TritonError
        return [
            # Each its own: Triton takes the memory of a response.
            next(following) if request.correlation_id() else self._response(error=error("a request of no sequence"))
            for request in requests
        ]

    def _answer_alone(self, request: Any) -> Any:
        self._next.clear()
        response = super()._answer_alone(request)
        self._keep_next()
        return response

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        self._next.clear()
        responses = super()._answer_together(requests)
        # Not before all of them are there: where one fails, each request runs again, from the state before.
        self._keep_next()
        return responses

    def _keep_next(self) -> None:
        for sequence, state in self._next.items():
            if state is None:
                self._states.drop(sequence)
            else:
                self._states.keep(sequence, state)

    def _read(self, request: Any) -> Arrays:
        sequence = request.correlation_id()
        if request.flags() & self._start:
            # If it fails, the next request must not continue the sequence that had this id before.
            self._states.drop(sequence)
            return super()._read(request)
        return super()._read(request) | self._states.of(sequence)

    def _wanted(self, request: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super()._wanted(request), *self._input_of)))

    def _respond(self, request: Any, names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> Any:
        given = dict(zip(names, arrays, strict=True))
        asked = super()._wanted(request)
        response = super()._respond(request, asked, [given[name] for name in asked])
        # Copies, because an array may be a part of a batch's or memory of the runtime's.
        left = {taken: np.array(given[name]) for name, taken in self._input_of.items()}
        self._next[request.correlation_id()] = None if request.flags() & self._end else left
        return response
