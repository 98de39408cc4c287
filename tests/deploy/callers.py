"""Callers that ask a model without a break, and count what fails."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np


class Caller(threading.Thread):
    """Asks for [[1, 2]] until it is told to stop; `last` is the newest answer."""

    def __init__(self, client, model, accepted):
        super().__init__(daemon=True)
        self.model, self.accepted, self.stopped = client.model(model), accepted, threading.Event()
        self.calls, self.failures, self.last = 0, [], None

    def run(self):
        rows = np.float32([[1, 2]])
        while not self.stopped.is_set():
            self.calls += 1
            try:
                self.last = self.model(rows).array.tolist()
            except Exception as error:  # noqa: BLE001 - whatever a caller would see
                self.failures.append(repr(error))
            else:
                if self.last not in self.accepted:
                    self.failures.append(self.last)
            time.sleep(0.005)


@contextlib.contextmanager
def calling(count, client, model, accepted):
    """So many callers at once, stopped at the end."""
    callers = [Caller(client, model, accepted) for _ in range(count)]
    try:
        for caller in callers:
            caller.start()
        yield callers
    finally:
        for caller in callers:
            caller.stopped.set()
        for caller in callers:
            if caller.ident is not None:
                caller.join()
