"""Work that talks to servers, written once for callers that block and for callers that await.

A flow is a generator: it yields the steps that need the outside world and is sent their results, or has their errors
thrown into it. Everything between the steps - checks, retries, choosing a server, splitting - is plain code that
does not depend on whether a thread or an event loop drives it. The two drivers are in
`plansmith_client.calling.drivers`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from plansmith_client.protocol.operations import Operation
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["AnyOf", "FirstOf", "Flow", "Pause", "Resolve", "Send", "Step", "Together"]


class Send:
    """Send an operation through a transport; results in its answer.

    Attributes:
        transport: a `Transport` or an `AsyncTransport`, whichever fits the driver.
        operation: what to ask.
        deadline: when to give up.
        headers: additional headers, for this call only.
    """

    def __init__(
        self, transport: Any, operation: Operation[Any], deadline: Deadline, headers: Mapping[str, str]
    ) -> None:
        self.transport = transport
        self.operation = operation
        self.deadline = deadline
        self.headers = headers


class Pause:
    """Wait; results in None."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Resolve:
    """Look a host up; results in its addresses in the resolver's order, empty if none came within the seconds."""

    def __init__(self, host: str, port: int, seconds: float | None) -> None:
        self.host = host
        self.port = port
        self.seconds = seconds


class Together:
    """Drive flows concurrently, at most `at_once` of them; results in their results, in order.

    The first error is thrown after the others have ended; flows that have not begun are dropped.
    """

    def __init__(self, flows: Sequence[Flow[Any]], at_once: int) -> None:
        self.flows = flows
        self.at_once = at_once


class FirstOf:
    """Drive a flow and, if it has not ended after `after` seconds, a second one concurrently.

    Results in the result of whichever succeeds first; if neither does, the error of the first is thrown. The other one
    is cancelled, in a thread by cancelling its deadline.
    """

    def __init__(
        self, first: Flow[Any], make_second: Callable[[], Flow[Any]], after: float, deadlines: tuple[Deadline, Deadline]
    ) -> None:
        self.first = first
        self.make_second = make_second
        self.after = after
        self.deadlines = deadlines


class AnyOf:
    """Drive flows concurrently; results in True as soon as one does, in False if none does.

    If none results in True and some failed, the first error is thrown.
    """

    def __init__(self, flows: Sequence[Flow[bool]]) -> None:
        self.flows = flows


Step = Send | Pause | Resolve | Together | FirstOf | AnyOf
Result = TypeVar("Result")
Flow = Generator[Step, Any, Result]
"""Yields steps, is sent their results, and returns a result."""
