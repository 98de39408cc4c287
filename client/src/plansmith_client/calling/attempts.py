"""One operation, sent to the servers until one of them answers or the retries are used up."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

from plansmith_client.calling.flows import AnyOf, FirstOf, Pause, Send, Together
from plansmith_client.calling.observers import tell_of_attempt
from plansmith_client.errors import (
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerOverloaded,
    ServerUnavailable,
)
from plansmith_client.inputs.device_tensors import on_host
from plansmith_client.protocol.operations import Infer, IsServerLive
from plansmith_client.transports.connections import NO_HEADERS, checked_headers
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    from plansmith_client.calling.flows import Flow
    from plansmith_client.calling.observers import Observer
    from plansmith_client.calling.retries import RetryBudget, RetryPolicy
    from plansmith_client.calling.servers import Server, Servers
    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.protocol.results import InferResult

__all__ = ["Caller"]

# A server whose circuit is open is asked whether it is live before it is sent a request.
_PROBE_SECONDS = 1.0
# Enough doublings to reach the longest pause between retries.
_LATE = 64
_LOG = logging.getLogger("plansmith_client")


class Caller:
    """Sends an operation to a server, to the next one if that cannot be reached, and again if a retry may help.

    Attributes:
        servers: the servers to choose from.
        retries: when a request is sent again.
        budget: how many retries all calls may make together.
        observers: told of each operation.
    """

    def __init__(
        self, servers: Servers, retries: RetryPolicy, budget: RetryBudget, observers: tuple[Observer, ...]
    ) -> None:
        self.servers = servers
        self.retries = retries
        self.budget = budget
        self.observers = observers

    def call(
        self, operation: Operation[Answer_co], deadline: Deadline, *, hedge_after: float | None = None
    ) -> Flow[Answer_co]:
        """Send the operation and return the answer; a second server is asked, too, after `hedge_after` seconds.

        Raises:
            ServerUnavailable: no server could be reached, retries included.
            ClientError: the server that was reached answered with this error.
        """
        if hedge_after is not None and not (operation.repeatable and len(self.servers.all()) > 1):
            hedge_after = None
        if not self.observers and hedge_after is None:
            return self._attempts(operation, deadline, NO_HEADERS)
        return self._watched(operation, deadline, hedge_after)

    def _watched(
        self, operation: Operation[Answer_co], deadline: Deadline, hedge_after: float | None
    ) -> Flow[Answer_co]:
        answer: Answer_co
        with self.observing(operation) as headers:
            if hedge_after is None:
                answer = yield from self._attempts(operation, deadline, headers)
            else:
                asked: set[Server] = set()
                first, second = deadline.cancellable(), deadline.cancellable()
                answer = yield FirstOf(
                    self._attempts(operation, first, headers, asked),
                    lambda: self._attempts(operation, second, headers, avoid=frozenset(asked)),
                    hedge_after,
                    (first, second),
                )
            return answer

    def call_one(self, server: Server, operation: Operation[Answer_co], deadline: Deadline) -> Flow[Answer_co]:
        """Send the operation to this server, without retries."""
        with self.observing(operation) as headers:
            answer = yield from self._send(server, operation, deadline, headers)
            self.servers.succeeded(server)
            return answer

    def call_all(self, operation: Operation[Answer_co], deadline: Deadline) -> Flow[list[Answer_co]]:
        """Send the operation to every server, without retries: each has its own repository state."""
        with self.observing(operation) as headers:
            servers = yield from self._every_server(deadline)
            flows = [self._send(server, operation, deadline, headers) for server in servers]
            answers: list[Answer_co] = yield Together(flows, len(flows))
            return answers

    def is_any(self, question: Operation[bool], deadline: Deadline) -> Flow[bool]:
        """Whether any server says yes, without retries; servers whose circuit is open are asked, too.

        The first yes is the answer. A server that cannot be reached, or lacks the model, says no.
        """
        with self.observing(question) as headers:
            servers = yield from self._every_server(deadline)
            answer: bool = yield AnyOf([self._says_yes(server, question, deadline, headers) for server in servers])
            return answer

    def is_every(self, question: Operation[bool], deadline: Deadline) -> Flow[bool]:
        """Whether all servers say yes; see `is_any`."""
        with self.observing(question) as headers:
            servers = yield from self._every_server(deadline)
            flows = [self._says_yes(server, question, deadline, headers) for server in servers]
            answers: list[bool] = yield Together(flows, len(flows))
            return all(answers)

    @contextmanager
    def observing(self, operation: Operation[Any]) -> Iterator[Mapping[str, str]]:
        """A context in which the observers watch the operation; gives the headers to send with it.

        Raises:
            InvalidInput: an observer gives headers that cannot be sent.
        """
        if not self.observers:
            yield NO_HEADERS
            return
        with ExitStack() as stack:
            headers: dict[str, str] = {}
            for observer in self.observers:
                given = stack.enter_context(observer.observe(operation))
                if not isinstance(given, Mapping):
                    raise InvalidInput(
                        f"{type(observer).__name__}.observe must give a mapping of headers, got {given!r}"
                    )
                headers.update(checked_headers(given))
            if "authorization" in headers:
                raise InvalidInput("An observer gives the header 'authorization': pass token= or headers= instead")
            try:
                yield headers
            except GeneratorExit:
                # The caller has left a stream early, which is not an error.
                stack.close()
                raise

    def pick(self, deadline: Deadline) -> Flow[Server]:
        """A server for requests that have to go to the same one.

        Raises:
            ServerUnavailable: none of them answers, or the circuits of all of them are open.
        """
        servers = self.servers
        tried: set[Server] | tuple[()] = ()
        yield from servers.look_up(deadline)
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

    def _attempts(  # noqa: C901, PLR0912, PLR0915 - one clause for each way an attempt can end
        self,
        operation: Operation[Answer_co],
        deadline: Deadline,
        headers: Mapping[str, str],
        asked: set[Server] | None = None,
        avoid: Collection[Server] = (),
    ) -> Flow[Answer_co]:
        servers, retried = self.servers, 0
        tried: Collection[Server] = avoid
        failure: ClientError | None = None
        failed_at = 0.0
        while True:
            if servers.resolves:
                yield from servers.look_up(deadline)
            server = servers.choose(tried)
            if server is None:
                if failure is None:
                    failure = servers.unavailable()
                if not failed_at:
                    failed_at = time.monotonic()
                yield from self._pause(failure, retried, failed_at, deadline)
                retried += 1
                tried = avoid
                continue
            if asked is not None:
                asked.add(server)
            try:
                if not server.breaker.is_closed:
                    yield from self._probe(server, deadline)
                answer: Answer_co
                shared = server.shared_memory
                if self.observers:
                    tell_of_attempt(self.observers, operation, server.address)
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

    def _pause(self, failure: ClientError, retried: int, failed_at: float, deadline: Deadline) -> Flow[None]:
        policy = self.retries
        if not isinstance(failure, ServerUnavailable) or not policy.attempts:
            raise failure
        if retried < policy.attempts and self.budget.take():
            pause = policy.pause(retried)
        elif self.servers.has_answered and time.monotonic() - failed_at < policy.restart:
            # Slowly: meanwhile the circuit opens, and what is sent is a probe.
            pause = policy.pause(_LATE)
        else:
            raise failure
        remaining = deadline.remaining()
        if remaining is not None and pause >= remaining:
            raise failure
        _LOG.info("Retry in %.2g s: %s", pause, failure)
        yield Pause(pause)

    def _every_server(self, deadline: Deadline) -> Flow[tuple[Server, ...]]:
        yield from self.servers.look_up(deadline)
        servers = self.servers.all()
        if not servers:
            raise self.servers.unavailable()
        return servers

    def _says_yes(
        self, server: Server, question: Operation[bool], deadline: Deadline, headers: Mapping[str, str]
    ) -> Flow[bool]:
        try:
            answer = yield from self._send(server, question, deadline, headers)
        except (ModelNotFound, ModelNotReady, ServerUnavailable, ServerOverloaded, DeadlineExceeded):
            return False
        self.servers.succeeded(server)
        return answer

    def _send(
        self, server: Server, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str]
    ) -> Flow[Answer_co]:
        tell_of_attempt(self.observers, operation, server.address)
        answer: Answer_co = yield Send(server.transport, operation, deadline, headers)
        return answer


def _send_from_memory(
    server: Server, operation: Infer, deadline: Deadline, headers: Mapping[str, str]
) -> Flow[InferResult]:
    """Send inputs that are large or lie on a GPU: through shared memory if the server supports it."""
    shared = server.shared_memory
    if shared is not None and shared.suits(operation):
        return (yield from shared.send(operation, deadline, headers))
    result: InferResult = yield Send(server.transport, on_host(operation), deadline, headers)
    return result
