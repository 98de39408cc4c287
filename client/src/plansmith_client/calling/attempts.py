"""One operation, sent to the servers until one of them answers or the retries are used up."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from plansmith_client.calling.flows import Pause, Send
from plansmith_client.errors import (
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    ModelNotFound,
    ModelNotReady,
    ServerUnavailable,
)
from plansmith_client.inputs.device_tensors import on_host
from plansmith_client.protocol.operations import Infer, IsServerLive
from plansmith_client.transports.connections import NO_HEADERS
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_client.calling.flows import Flow
    from plansmith_client.calling.observers import Observer
    from plansmith_client.calling.retries import RetryBudget, RetryPolicy
    from plansmith_client.calling.servers import Server, Servers
    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.protocol.results import InferResult

__all__ = ["Caller"]

# A server whose circuit is open is asked whether it is live before it is sent a request.
_PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Sends an operation to a server, to the next one if that cannot be reached, and again if a retry may help.

    Attributes:
        servers: the servers to choose from.
        retries: when a request is sent again.
        budget: how many retries all calls may make together.
        observers: told of each operation.
    """

    servers: Servers
    retries: RetryPolicy
    budget: RetryBudget
    observers: tuple[Observer, ...] = ()

    def call(self, operation: Operation[Answer_co], deadline: Deadline) -> Flow[Answer_co]:
        """Send the operation and return the answer.

        Raises:
            ServerUnavailable: no server could be reached, retries included.
            ClientError: the server that was reached answered with this error.
        """
        if not self.observers:
            answer: Answer_co = yield from self._attempts(operation, deadline, NO_HEADERS)
            return answer
        with ExitStack() as stack:
            headers: dict[str, str] = {}
            for observer in self.observers:
                headers.update(stack.enter_context(observer.observe(operation)))
            answer = yield from self._attempts(operation, deadline, headers)
            return answer

    def call_one(self, server: Server, operation: Operation[Answer_co], deadline: Deadline) -> Flow[Answer_co]:
        """Send the operation to this server, without retries."""
        answer: Answer_co = yield Send(server.transport, operation, deadline, NO_HEADERS)
        return answer

    def pick(self, deadline: Deadline) -> Flow[Server]:
        """A server for requests that have to go to the same one.

        Raises:
            ServerUnavailable: none of them answers, or the circuits of all of them are open.
        """
        servers = self.servers
        tried: set[Server] | tuple[()] = ()
        yield from servers.look_up()
        while (server := servers.choose(tried)) is not None:
            try:
                if not server.breaker.is_closed:
                    yield from self._probe(server, deadline)
                    servers.succeeded(server)
            except ServerUnavailable as error:
                servers.failed(server, error)
            else:
                return server
            finally:
                servers.release(server)
            tried = {server, *tried}
        raise servers.unavailable()

    def _attempts(  # noqa: C901, PLR0912 - one clause for each way an attempt can end
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str]
    ) -> Flow[Answer_co]:
        servers, retried = self.servers, 0
        tried: set[Server] | tuple[()] = ()
        failure: ClientError | None = None
        if servers.resolves:
            yield from servers.look_up()
        while True:
            server = servers.choose(tried)
            if server is None:
                if failure is None:
                    raise servers.unavailable()
                yield from self._pause(failure, retried, deadline)
                retried += 1
                tried = ()
                continue
            try:
                if not server.breaker.is_closed:
                    yield from self._probe(server, deadline)
                answer: Answer_co
                shared = server.shared_memory
                if isinstance(operation, Infer) and (operation.on_device or (shared and shared.suits(operation))):
                    answer = cast("Answer_co", (yield from _send_from_memory(server, operation, deadline, headers)))
                else:
                    answer = yield Send(server.transport, operation, deadline, headers)
            except ServerUnavailable as error:
                servers.failed(server, error)
                if not operation.repeatable:
                    raise
                failure = error
            except (ModelNotFound, ModelNotReady) as error:
                # This server answered; another one may have the model loaded already.
                servers.succeeded(server)
                failure = error
            except DeadlineExceeded:
                servers.timed_out(server)
                raise
            except ClientClosed:
                raise
            except ClientError:
                servers.succeeded(server)
                raise
            else:
                servers.succeeded(server)
                self.budget.give_back()
                return answer
            finally:
                servers.release(server)
            tried = {server, *tried}

    def _probe(self, server: Server, deadline: Deadline) -> Flow[None]:
        remaining = deadline.remaining()
        wait = _PROBE_SECONDS if remaining is None else min(_PROBE_SECONDS, remaining / 2)
        try:
            # Not whether it is ready: a server that lacks one of its models still has the others.
            live = yield Send(server.transport, IsServerLive(), Deadline(wait), NO_HEADERS)
        except DeadlineExceeded as error:
            raise ServerUnavailable(f"No answer from {server.address.url} within {wait:.2g} s") from error
        if not live:
            raise ServerUnavailable(f"The server at {server.address.url} says that it is not live: see its log")

    def _pause(self, failure: ClientError, retried: int, deadline: Deadline) -> Flow[None]:
        if not isinstance(failure, ServerUnavailable) or retried >= self.retries.attempts or not self.budget.take():
            raise failure
        pause, remaining = self.retries.pause(retried), deadline.remaining()
        if remaining is not None and pause >= remaining:
            raise failure
        yield Pause(pause)


def _send_from_memory(
    server: Server, operation: Infer, deadline: Deadline, headers: Mapping[str, str]
) -> Flow[InferResult]:
    """Send inputs that are large or lie on a GPU: through shared memory if the server supports it."""
    shared = server.shared_memory
    if shared is not None and shared.suits(operation):
        return (yield from shared.send(operation, deadline, headers))
    result: InferResult = yield Send(server.transport, on_host(operation), deadline, headers)
    return result
