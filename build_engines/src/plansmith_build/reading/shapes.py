"""Shapes with dimensions of any size, which are -1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.protocol.metadata import shape_fits

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["agree", "fits"]


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a shape is one that was declared, -1 being any size."""
    # The client's takes tuples alone; here shapes are also lists and fields of messages.
    return shape_fits(tuple(shape), tuple(wanted))


def agree(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two declared shapes can be the same, -1 being any size in both."""
    return len(one) == len(other) and all(-1 in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))
