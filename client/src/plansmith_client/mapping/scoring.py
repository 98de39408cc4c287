"""How `map` sends: it waits while a server is overloaded, and halves a batch that fails."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from plansmith_client.calling.flows import Pause
from plansmith_client.calling.retries import RetryPolicy
from plansmith_client.errors import ClientError, DeadlineExceeded, InferenceFailed, InvalidInput, ServerOverloaded
from plansmith_client.mapping.batches import Batch
from plansmith_client.mapping.mapped import Piece
from plansmith_client.protocol.splitting import check_rows

if TYPE_CHECKING:
    from plansmith_client.calling.flows import Flow
    from plansmith_client.calling.model_core import ModelCore
    from plansmith_client.protocol.operations import Infer, Tensor
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["Pace", "score"]

_BACKOFF = RetryPolicy(backoff=0.02, longest_backoff=1.0)


class Pace:
    """How many requests may be in flight: halved when a server is overloaded, one more after as many answers."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)

    @property
    def limit(self) -> int:
        """The most requests in flight."""
        return int(self._limit)

    def slower(self) -> None:
        """The server's queue is full."""
        self._limit = max(1.0, self._limit / 2)

    def faster(self) -> None:
        """The server answered."""
        self._limit = min(float(self._most), self._limit + 1 / self._limit)


def score(core: ModelCore, batch: Batch, deadline: Deadline, pace: Pace) -> Flow[list[Piece]]:
    """Score a batch.

    A batch that fails because of its content is halved until the failing item is alone. While the server is
    overloaded, the batch waits and is sent again, because a job of many rows can wait.
    """
    if isinstance(batch.request, ClientError):
        if batch.check is None:
            return [Piece(batch.indices, batch.request)]
        try:
            batch = Batch(batch.indices, (yield from core.by_metadata(batch.check, deadline)))
        except ClientError as error:
            return [Piece(batch.indices, error)]
    assert not isinstance(batch.request, ClientError)  # noqa: S101 - for the type checker
    try:
        result = yield from _patiently(core, batch.request, deadline, pace)
        if _are_rows(batch.request, batch.indices):
            check_rows(result, len(batch.indices))
    except (InvalidInput, InferenceFailed) as error:
        if len(batch.indices) == 1:
            return [Piece(batch.indices, error)]
        pieces: list[Piece] = []
        for half in _halves(batch):
            pieces += yield from score(core, half, deadline, pace)
        return pieces
    except ClientError as error:
        return [Piece(batch.indices, error)]
    return [Piece(batch.indices, result)]


def _are_rows(request: Infer, indices: tuple[int, ...] | range) -> bool:
    """Whether the rows of the request are its items; without batching the whole request is one item."""
    return len(indices) > 1 or all(tensor.array.shape[:1] == (1,) for tensor in request.inputs)


def _patiently(core: ModelCore, request: Infer, deadline: Deadline, pace: Pace) -> Flow[InferResult]:
    for attempt in itertools.count():
        try:
            result: InferResult = yield from core.ask(request, deadline)
        except ServerOverloaded:  # noqa: PERF203 - what the loop is for
            pace.slower()
            pause, remaining = _BACKOFF.pause(attempt), deadline.remaining()
            if remaining is not None and pause >= remaining:
                raise
            yield Pause(pause)
        else:
            pace.faster()
            return result
    raise DeadlineExceeded("unreachable")


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    request, middle = batch.request, len(batch.indices) // 2
    assert not isinstance(request, ClientError)  # noqa: S101 - for the type checker

    def part(rows: slice) -> Batch:
        tensors: tuple[Tensor, ...] = tuple(tensor._replace(array=tensor.array[rows]) for tensor in request.inputs)
        return Batch(batch.indices[rows], replace(request, inputs=tensors))

    return part(slice(0, middle)), part(slice(middle, None))
