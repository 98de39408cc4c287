"""Work that talks to servers, written once for callers that block and for callers that await.

A flow is a generator: it yields the steps that need the outside world and is sent their results, or has their errors
thrown into it. Everything between the steps - checks, retries, choosing a server, splitting - is plain code that
does not depend on whether a thread or an event loop drives it. The two drivers are in
`plansmith_client.calling.drivers`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from plansmith_client.protocol.operations import Operation
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["AnyOf", "FirstOf", "Flow", "Pause", "Resolve", "Send", "Step", "Together"]


class Send(NamedTuple):
    """Send an operation through a transport; results in its answer.

    Attributes:
        transport: a `Transport` or an `AsyncTransport`, whichever fits the driver.
        operation: what to ask.
        deadline: when to give up.
        headers: additional headers, for this call only.
    """

    transport: Any
    operation: Operation[Any]
    deadline: Deadline
    headers: Mapping[str, str]


class Pause(NamedTuple):
    """Wait; results in None."""

    seconds: float


class Resolve(NamedTuple):
    """Look a host up; results in its addresses in the resolver's order, empty if none came within the seconds."""

    host: str
    port: int
    seconds: float | None


class Together(NamedTuple):
    """Drive flows concurrently, at most `at_once` of them; results in their results, in order.

    The first error is thrown after the others have ended; flows that have not begun are dropped.
    """

    flows: Sequence[Flow[Any]]
    at_once: int


class FirstOf(NamedTuple):
    """Drive a flow and, if it has not ended after `after` seconds, a second one concurrently.

    Results in the result of whichever succeeds first; if neither does, the error of the first is thrown. The other one
    is cancelled, in a thread by cancelling its deadline.
    """

    first: Flow[Any]
    make_second: Callable[[], Flow[Any]]
    after: float
    deadlines: tuple[Deadline, Deadline]


class AnyOf(NamedTuple):
    """Drive flows concurrently; results in True as soon as one does, in False if none does.

    If none results in True and some failed, the first error is thrown.
    """

    flows: Sequence[Flow[bool]]


Step = Send | Pause | Resolve | Together | FirstOf | AnyOf
Result = TypeVar("Result")
Flow = Generator[Step, Any, Result]
"""Yields steps, is sent their results, and returns a result."""
