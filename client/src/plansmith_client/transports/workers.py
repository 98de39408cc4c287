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


class Workers:
    """At most `most` threads, which run functions in the order in which they are given.

    They are daemons: a request that cannot be cancelled may run until its deadline, and neither Ctrl-C, nor who leaves
    a loop over results, nor the end of the program waits for it.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._started = 0
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, function: Callable[..., _Result], *given: object) -> Future[_Result]:
        """Run a function in the caller's context as soon as a thread is free."""
        future: Future[_Result] = Future()
        self._tasks.put((future, partial(contextvars.copy_context().run, function, *given)))
        if self._started < self._most:
            try:
                threading.Thread(target=_work, args=(self._tasks,), name=self._name, daemon=True).start()
                self._started += 1
            except RuntimeError:
                # The system has no threads, or no more of them.
                if not self._started:
                    self._tasks.put(None)
                    _work(self._tasks)
        return future

    def close(self) -> None:
        """Cancel what has not begun, and let the threads end with what they do."""
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task[0].cancel()
                    # Wakes those who wait for it.
                    task[0].set_running_or_notify_cancel()
        for _ in range(self._started):
            self._tasks.put(None)


def _work(tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (task := tasks.get()) is not None:
        future, call = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
                future.set_exception(error)
        # An idle thread keeps no result alive.
        del task, future, call
