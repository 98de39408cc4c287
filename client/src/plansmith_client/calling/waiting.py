"""Waiting until a server or a model is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.calling.flows import Pause
from plansmith_client.errors import ClientError, DeadlineExceeded, ServerOverloaded, ServerUnavailable
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from plansmith_client.calling.flows import Flow

__all__ = ["wait_until"]

_POLL_SECONDS = 0.1
_FIRST_PROBE_SECONDS = 1.0


def wait_until(is_ready: Callable[[Deadline], Flow[bool]], subject: str, deadline: Deadline) -> Flow[None]:
    """Return when a probe says yes, asking again and again.

    Raises:
        DeadlineExceeded: it was not ready before the deadline.
        ServerUnavailable: it could not be reached in the last probe before the deadline.
    """
    not_ready = DeadlineExceeded(f"{subject} was not ready within {deadline.timeout:g} s")
    failure: ClientError = not_ready
    patience = _FIRST_PROBE_SECONDS
    try:
        while True:
            remaining = deadline.remaining()
            # A probe that hangs must not use up the time: the next one may be answered.
            probe = Deadline(patience if remaining is None else min(patience, remaining))
            patience *= 2
            try:
                if (yield from is_ready(probe)):
                    return
                failure = not_ready
            except (ServerUnavailable, ServerOverloaded) as error:
                failure = error
            except DeadlineExceeded:
                failure = not_ready
            remaining = deadline.remaining()
            yield Pause(_POLL_SECONDS if remaining is None else min(_POLL_SECONDS, remaining))
    except DeadlineExceeded as passed:
        raise failure from passed
