"""Whether a model keeps rows: one row in every output for each row in the inputs.

Names alone do not tell: exporters name the batch dimension differently at inputs and outputs, or not at all. So shapes
are inferred for two batch sizes. Where each output then has that many rows, and nothing else of it changes, rows are
kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["MADE_UP_NAME", "NO_NAME", "UNKNOWN_ROWS", "Rows", "Shape", "trace_rows"]

# Names that exporters make up (`unk__7`, `s0`, `?`): two different ones may still be the same size.
MADE_UP_NAME = re.compile(r"\W*|.*\d|None|unknown|unk", re.IGNORECASE)
# Those that say nothing, even where they are the same.
NO_NAME = re.compile(r"\W*|None|unknown|unk", re.IGNORECASE)

BATCHES = (7, 11)
ANOTHER_BATCH = 13

Shape = list[int | None]


@dataclass(frozen=True, slots=True)
class Rows:
    """What shape inference says about the rows of a batch.

    Attributes:
        kept: whether every output has one row for each row of the inputs, and no other dimension that depends on their
            number; None where shape inference cannot tell.
        shared: whether all inputs must have the same number of rows: with another number in any one of them, shapes do
            not match.
    """

    kept: bool | None
    shared: bool


UNKNOWN_ROWS = Rows(kept=None, shared=False)


def trace_rows(infer: Callable[[Mapping[str, int]], list[Shape] | None], inputs: Collection[str]) -> Rows:
    """Infer shapes for several batch sizes.

    Args:
        infer: gives the shapes of the outputs for a number of rows in each input, with None for a size that is not
            known; None where shapes do not match each other.
        inputs: the names of the inputs.
    """
    small, large = (infer(dict.fromkeys(inputs, batch)) for batch in BATCHES)
    if small is None or large is None:
        return UNKNOWN_ROWS
    kept = [_is_kept(*shapes) for shapes in zip(small, large, strict=True)]
    same = dict.fromkeys(inputs, BATCHES[0])
    shared = len(inputs) == 1 or all(infer({**same, name: ANOTHER_BATCH}) is None for name in inputs)
    return Rows(kept=False if False in kept else None if None in kept else True, shared=shared)


def _is_kept(small: Shape, large: Shape) -> bool | None:
    if None in small or None in large or not small:
        return None
    return (small[0], large[0]) == BATCHES and small[1:] == large[1:]
