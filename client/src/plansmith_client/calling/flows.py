"""Work that talks to servers, written once for callers that block and for callers that await.

A flow is a generator: it yields the steps that need the outside world and is sent what they gave, or has their error
thrown into it. Everything between the steps - checks, retries, choosing a server, splitting - is plain code that
neither knows nor cares whether a thread or an event loop drives it. The two drivers stand in
`plansmith_client.calling.drivers`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from plansmith_client.protocol.operations import Operation
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["FirstOf", "Flow", "Pause", "Resolve", "Send", "Step", "Together"]


class Send(NamedTuple):
    """Send an operation through a transport; gives its answer.

    Attributes:
        transport: a `Transport` or an `AsyncTransport`, as fits the driver.
        operation: what to ask.
        deadline: when to give up.
        headers: further headers of this call alone.
    """

    transport: Any
    operation: Operation[Any]
    deadline: Deadline
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; gives None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look a host up; gives its addresses in the resolver's order, or none where it is not known."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Together:
    """Drive flows at the same time, so many at once; gives their results in order.

    The first error is thrown once the others have ended; those that have not begun are dropped.
    """

    flows: Sequence[Flow[Any]]
    at_once: int


@dataclass(frozen=True, slots=True)
class FirstOf:
    """Drive a flow, and after some seconds without an end a second one beside it.

    Gives the result of the one that succeeds first, and throws the first one's error where neither does.
    """

    first: Flow[Any]
    make_second: Callable[[], Flow[Any]]
    after: float


Step = Send | Pause | Resolve | Together | FirstOf
Result = TypeVar("Result")
Flow = Generator[Step, Any, Result]
"""Yields steps, is sent what they give, and returns a result."""
