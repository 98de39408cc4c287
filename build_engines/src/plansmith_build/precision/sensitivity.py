"""Which parts of a graph hurt when their precision is lowered, found by bisection over groups of nodes."""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["fewest_to_keep", "noisiest_first"]


def noisiest_first(
    nodes: Sequence[str], noise_of: Callable[[frozenset[str]], float], *, evaluations: int
) -> tuple[tuple[str, ...], ...]:
    """Neighbouring nodes in groups, those that make the most noise a node first.

    The noisiest group is halved, and each half measured alone, until it is a single node or the evaluations are spent:
    what matters is told apart finely, and what does not stays together.

    Args:
        nodes: in the graph's order, so that a group is a stretch of the graph.
        noise_of: the noise at the outputs when these nodes alone have the low precision.
        evaluations: how often `noise_of` may be called.
    """
    ties = count()
    heap = [(0.0, next(ties), tuple(nodes))]
    done: list[tuple[float, tuple[str, ...]]] = []
    while heap:
        noise, _, group = heapq.heappop(heap)
        if len(group) == 1 or evaluations < 2:  # noqa: PLR2004 - one for each half
            done.append((noise / len(group), group))
            continue
        evaluations -= 2
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            heapq.heappush(heap, (-noise_of(frozenset(half)), next(ties), half))
    return tuple(group for _, group in sorted(done, key=lambda entry: entry[0]))


def fewest_to_keep(
    groups: Sequence[tuple[str, ...]], meets: Callable[[frozenset[str]], bool], *, most: int
) -> frozenset[str] | None:
    """The shortest beginning of `groups` that is enough to keep in high precision, by bisection.

    Args:
        groups: the worst first.
        meets: whether the budget is met when these nodes are kept.
        most: how many nodes may be kept at most.

    Returns:
        The nodes to keep, or None where `most` are not enough.
    """
    allowed = [frozenset[str]()]
    for group in groups:
        kept = allowed[-1].union(group)
        if len(kept) > most:
            break
        allowed.append(kept)
    # Where all that may be kept is not enough, nothing in between is.
    if not meets(allowed[-1]):
        return None
    low, high = 0, len(allowed) - 1
    while low < high:
        middle = (low + high) // 2
        if meets(allowed[middle]):
            high = middle
        else:
            low = middle + 1
    return allowed[low]
