"""What is known of a peer before it is started, and the error of one that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_perf.comparing.contestants import Contestant
from plansmith_perf.comparing.subject import Subject
from plansmith_perf.errors import PerfError

if TYPE_CHECKING:
    from plansmith_perf.comparing.results import PeerKind

__all__ = ["Opener", "Peer", "PeerUnavailable"]

Opener = Callable[[Subject, int], AbstractContextManager[Contestant]]
"""Starts a peer; the number is that of the requests that will be in flight."""


class PeerUnavailable(PerfError):
    """A peer cannot be installed here, or does not fit the model."""


@dataclass(frozen=True)
class Peer:
    """One row.

    Attributes:
        key: its name on the command line.
        name: its name in the result.
        kind: see `plansmith_perf.comparing.results`.
        setup: in one line.
        source: address of the page that recommends it.
        open: starts it.
        reduced_precision: whether what it computes was allowed to be less exact than the reference.
        obstacle: why it cannot take the model, or "".
    """

    key: str
    name: str
    kind: PeerKind
    setup: str
    source: str
    open: Opener
    reduced_precision: Callable[[Subject], bool] = lambda _: False
    obstacle: Callable[[Subject], str] = lambda _: ""
