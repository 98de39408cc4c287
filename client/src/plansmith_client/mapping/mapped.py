"""The results of `map`: item by item, or joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.errors import ClientError, InvalidInput
from plansmith_client.protocol.results import with_outputs
from plansmith_client.protocol.splitting import join_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from plansmith_client.protocol.results import InferResult

__all__ = ["InOrder", "MappedItem", "Piece", "is_first_error_known", "items_of", "join_pieces"]


class MappedItem(Mapping[str, "np.ndarray[Any, Any]"]):
    """The result of one item: its outputs by name, without the batch dimension, or its error.

    Attributes:
        index: the item's place in what was mapped, counted from 0.
        error: why there are no outputs; None if there are.

    Example:
        ```python
        for item in client.model("digits").map(images):
            print(item.index, item.error or item["probabilities"].argmax())
        ```
    """

    __slots__ = ("_outputs", "error", "index")

    def __init__(
        self, index: int, outputs: dict[str, np.ndarray[Any, Any]] | None, error: ClientError | None = None
    ) -> None:
        self.index = index
        self.error = error
        self._outputs = outputs

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        return self._known()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The only output.

        Raises:
            ClientError: the item failed.
            InvalidInput: there are several outputs.
        """
        outputs = self._known()
        if len(outputs) != 1:
            raise InvalidInput(f"Item {self.index} has {len(outputs)} outputs ({', '.join(outputs)}): take one by name")
        return next(iter(outputs.values()))

    def __repr__(self) -> str:
        return f"MappedItem({self.index}: {self.error or ', '.join(self._known())})"

    def _known(self) -> dict[str, np.ndarray[Any, Any]]:
        if self._outputs is None:
            # A failed item always has its error.
            raise self.error or InvalidInput("The item has neither outputs nor an error")
        return self._outputs


@dataclass(frozen=True, slots=True)
class Piece:
    """The result of some items of a batch: one result for all of them, or one error."""

    indices: tuple[int, ...] | range
    outcome: InferResult | ClientError


def items_of(piece: Piece, *, batches: bool) -> Iterator[MappedItem]:
    """The items of a piece, one by one."""
    if isinstance(piece.outcome, ClientError):
        for index in piece.indices:
            yield MappedItem(index, None, piece.outcome)
        return
    outputs = dict(piece.outcome)
    if not batches:
        yield MappedItem(piece.indices[0], outputs)
        return
    names = list(outputs)
    for index, *values in zip(piece.indices, *outputs.values(), strict=True):
        yield MappedItem(index, dict(zip(names, values, strict=True)))


class InOrder:
    """Puts items back into the order of what was mapped: batches of one shape leave others between their items.

    Args:
        skips: whether an index does not come.
        first: before which none comes.
    """

    def __init__(self, skips: Callable[[int], bool], first: int) -> None:
        self._skips = skips
        self._next = first
        self._early: dict[int, MappedItem] = {}

    def due(self, items: Iterable[MappedItem]) -> Iterator[MappedItem]:
        """What may come out now that these have come in."""
        self._early.update((item.index, item) for item in items)
        while True:
            while self._skips(self._next):
                self._next += 1
            if self._next not in self._early:
                return
            yield self._early.pop(self._next)
            self._next += 1


def is_first_error_known(pieces: list[Piece], skips: Callable[[int], bool]) -> bool:
    """Whether all items before the first of these that failed are among them."""
    failed = min((piece.indices[0] for piece in pieces if isinstance(piece.outcome, ClientError)), default=None)
    if failed is None:
        return False
    before = sum(index < failed for piece in pieces for index in piece.indices)
    return before == sum(not skips(index) for index in range(failed))


def join_pieces(pieces: list[Piece], *, batches: bool) -> InferResult:
    """One result of all items in the order of their indices.

    Items that are whole requests are joined by the rows that came back.

    Raises:
        ClientError: the error of the first item that failed.
    """
    pieces = sorted(pieces, key=lambda piece: piece.indices[0])
    for piece in pieces:
        if isinstance(piece.outcome, ClientError):
            raise piece.outcome
    results = [piece.outcome for piece in pieces if not isinstance(piece.outcome, ClientError)]
    if not results:
        raise InvalidInput("Nothing was mapped: there were no items")
    if batches:
        joined = join_results(results, [len(piece.indices) for piece in pieces])
        if all(isinstance(piece.indices, range) for piece in pieces):
            return joined
        order = np.argsort([index for piece in pieces for index in piece.indices])
        if (order == np.arange(len(order))).all():
            return joined
        return with_outputs(joined, {name: array[order] for name, array in joined.items()})
    return join_results(
        results, [next((len(array) for array in result.values() if array.ndim), 1) for result in results]
    )
