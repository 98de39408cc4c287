"""Which parts of a graph hurt when their precision is lowered, found by bisection over groups of nodes."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Groups = Sequence[tuple[str, ...]]

__all__ = ["fewest_to_keep", "noisiest_first"]

# So many times what may be lost is no matter of a few rows.
FAR_OUTSIDE = 4.0


def noisiest_first(
    nodes: Sequence[str],
    estimate: Callable[[frozenset[str]], tuple[float, float]],
    *,
    most: int,
    evaluations: int,
    seconds: float = math.inf,
) -> Groups | None:
    """Neighbouring nodes in groups, those that make the most noise a node first.

    The noisiest group is halved, and each half measured alone, until it is a single node or the evaluations are spent:
    what matters is told apart finely, and what does not stays together.

    Args:
        nodes: in the graph's order, so that a group is a stretch of the graph.
        estimate: the used budget, above 1 for outside, and the noise at the outputs when these nodes alone have the low
            precision.
        most: how many nodes may be kept in high precision at most.
        evaluations: how often `estimate` may be called.
        seconds: after this time, no further group is halved.

    Returns:
        The groups, or None as soon as even the luckiest halvings to come would leave as much noise as a group that was
        far outside the budget alone.
    """
    started = time.monotonic()
    groups = {tuple(nodes): math.inf}
    too_much = math.inf
    spent = 0
    while noisy := [group for group in groups if len(group) > 1]:
        elapsed = time.monotonic() - started
        left = int(min(evaluations - spent, (seconds - elapsed) * spent / elapsed if spent else math.inf))
        if _least_noise(groups, left // 2, most) >= too_much:
            return None
        if left < 2:  # noqa: PLR2004 - one for each half
            break
        group = max(noisy, key=groups.__getitem__)
        del groups[group]
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            used, groups[half] = estimate(frozenset(half))
            too_much = min(too_much, groups[half]) if used > FAR_OUTSIDE else too_much
        spent += 2
    return sorted(groups, key=lambda group: -groups[group] / len(group))


def _least_noise(groups: dict[tuple[str, ...], float], halvings: int, most: int) -> float:
    """The least noise that can be left where `most` nodes are kept, if that of groups adds up.

    So lucky are the halvings to come: all noise of a group is in one half of it.
    """
    parts = [(noise, len(group)) for group, noise in groups.items()]
    for _ in range(halvings):
        parts.sort(key=lambda part: part[1])
        noise, size = parts.pop()
        parts.append((noise, -(-size // 2)))
    left = 0.0
    for noise, size in sorted(parts, key=lambda part: -part[0] / part[1]):
        kept = min(size, most)
        most -= kept
        left += noise * (size - kept) / size if kept < size else 0.0
    return left


def fewest_to_keep(
    groups: Groups, meets: Callable[[frozenset[str]], bool], permitted: Callable[[frozenset[str]], bool]
) -> frozenset[str] | None:
    """The shortest beginning of `groups` that is enough to keep in high precision, by bisection.

    Args:
        groups: the worst first.
        meets: whether the budget is met when these nodes are kept.
        permitted: whether these nodes may be kept.

    Returns:
        The nodes to keep, or None where all that may be are not enough.
    """
    allowed = [frozenset[str]()]
    for group in groups:
        if not permitted(kept := allowed[-1].union(group)):
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
