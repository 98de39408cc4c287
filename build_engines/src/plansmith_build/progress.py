"""What a build tells about itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BuildStep", "Progress", "plural", "silent"]


@dataclass(frozen=True)
class BuildStep:
    """One event of a build: a step begins (`outcome` empty), or the same step ends with one line of result.

    Attributes:
        title: what is being done: `"Optimising the graph"`.
        outcome: empty when the step begins, else what came of it: `"415 -> 123 nodes"`.
        done: how much of a longer piece of work is behind, from 0 to 1; None where that is not known.
    """

    title: str
    outcome: str = ""
    done: float | None = None


Progress = Callable[[BuildStep], None]


def silent(_: BuildStep) -> None:
    """The default: say nothing."""


def plural(count: int) -> str:
    """The letter that a noun takes for this many."""
    return "" if count == 1 else "s"
