"""Threads for work beside the caller's, which nobody waits for once its results are not wanted."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Workers"]

_Result = TypeVar("_Result")
_Task = tuple["Future[Any]", "Callable[[], Any]"]


class Workers:
    """At most `most` threads, which run functions in the order in which they are given.

    Where the system starts none of them, the caller runs each function as it is given.

    They are daemons: a request that cannot be cancelled may run until its deadline, and neither Ctrl-C, nor who leaves
    a loop over results, nor the end of the program waits for it.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._started = 0
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()

    def submit(self, function: Callable[..., _Result], *given: object) -> Future[_Result]:
        """Run a function in the caller's context as soon as a thread is free."""
        future: Future[_Result] = Future()
        self._tasks.put((future, partial(contextvars.copy_context().run, function, *given)))
        if self._started < self._most:
            # Counted first: Ctrl-C may come while it starts.
            self._started += 1
            try:
                threading.Thread(target=_work, args=(self._tasks,), name=self._name, daemon=True).start()
            except RuntimeError:
                # The system allows no more of them, or the interpreter is ending: the others do it, or the caller.
                self._started -= 1
                if not self._started:
                    _do(self._tasks.get())
        return future

    def close(self) -> None:
        """Cancel what has not begun, and let the threads end with what they do."""
        try:
            with contextlib.suppress(queue.Empty):
                while True:
                    task = self._tasks.get_nowait()
                    if task is not None:
                        task[0].cancel()
                        # Wakes those who wait for it.
                        task[0].set_running_or_notify_cancel()
        finally:
            self._tasks.put(None)


def _work(tasks: queue.SimpleQueue[_Task | None]) -> None:
    while (task := tasks.get()) is not None:
        _do(task)
        # An idle thread keeps no result alive.
        del task
    # For the next thread.
    tasks.put(None)


def _do(task: _Task | None) -> None:
    if task is not None and task[0].set_running_or_notify_cancel():
        future, call = task
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
            future.set_exception(error)
