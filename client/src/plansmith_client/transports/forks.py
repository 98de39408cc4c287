"""What the child of a fork begins afresh: it has copies of its parent's sockets and locks, and none of its threads.

A module of its own with few imports: the interpreter keeps what it calls after a fork, and all that this refers to, to
its very end, where every process would take longer to clear up.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["reopen_in_children"]

_LIVING: weakref.WeakSet[Any] = weakref.WeakSet()


def reopen_in_children(living: Any) -> None:
    """Call the object's method `reopen` in the child of each fork."""
    _LIVING.add(living)


def _reopen_all() -> None:
    for living in list(_LIVING):
        living.reopen()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen_all)
