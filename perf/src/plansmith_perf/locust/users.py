"""Locust users that ask any model of a running server, over gRPC and over HTTP, and check each answer."""

from __future__ import annotations

import itertools
import random
import time
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
import gevent.event
from locust import User, task

from plansmith_client import Client, ClientError
from plansmith_perf.errors import LoadTestMisconfigured, PerfError
from plansmith_perf.load.encoded_requests import RIGHT, WRONG_ANSWER, one_line
from plansmith_perf.load.requests import CheckedRequest, check_answer
from plansmith_perf.load.worker import PAUSE_AFTER_ERROR_SECONDS
from plansmith_perf.locust.node import LoadNode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_perf.locust.options import LoadOptions

__all__ = ["GrpcUser", "HttpUser", "InferenceUser", "protocols_of", "select_users"]

_PAUSE_AFTER_OUTAGE_SECONDS = 0.5
_PAUSE_UNPREPARED_SECONDS = 0.05
_number = itertools.count()


class InferenceUser(User):
    """Sends one request after the other, each user with its own connection to the server.

    In closed loop it thinks, for no time by default, between an answer and the next request. In open loop it waits
    until a request is due that no other user has taken.
    """

    abstract = True
    protocol: ClassVar[str]
    shown: ClassVar[str]
    node: ClassVar[LoadNode] = LoadNode()

    def on_start(self) -> None:
        """Connect, and wait for the load to begin."""
        self.due: int | None = None
        self.failed = False
        self.client: Client | None = None
        while (prepared := self.node.prepared.get(self.protocol)) is None:
            # It has failed, and the test is about to be stopped; or this worker was sent users before it was set up.
            gevent.sleep(_PAUSE_UNPREPARED_SECONDS)
        options = self.node.options
        self.requests = prepared.requests
        # Further attempts, or none at all while a breaker is open, would hide what the server does.
        self.client = Client(prepared.url, timeout=options.timeout, retries=0, breaker=None)
        self.choose = random.Random(f"{options.seed} {next(_number)}").choice  # noqa: S311 - no secret
        while not self.node.finishing:
            sent = time.monotonic_ns()
            try:
                self.model = self.client.model(prepared.model, options.model_version)
                break
            except ClientError as error:
                self._report(sent, sent, time.monotonic_ns(), failure=error)
                gevent.sleep(_PAUSE_AFTER_OUTAGE_SECONDS)
        while not self.node.finishing and not self.node.started.wait(timeout=_PAUSE_AFTER_OUTAGE_SECONDS):
            pass

    def on_stop(self) -> None:
        """Close the connection."""
        if self.due is not None:
            self.node.in_flight -= 1
        if self.client is not None:
            self.client.close()

    def wait_time(self) -> float:
        """Seconds until the next request; in open loop it waits itself, until one is due."""
        node = self.node
        if node.arrivals is not None and not (node.finishing and not node.arrivals.waiting):
            self.due = node.arrivals.take()
            node.in_flight += 1
            return 0.0
        if node.is_over or node.options.is_open_loop:
            # Until Locust stops this user: it takes no time while a user waits.
            gevent.event.Event().wait()
        return max(node.options.think_time, PAUSE_AFTER_ERROR_SECONDS if self.failed else 0.0)

    @task
    def infer(self) -> None:
        """Send one request, check its answer and report both."""
        due, self.due = self.due, None
        if due is None:
            if self.node.is_over or self.node.options.is_open_loop:
                return
            self.node.in_flight += 1
        request = self.choose(self.requests)
        failure: Exception | None = None
        size = 0
        try:
            sent = time.monotonic_ns()
            try:
                answer = self.model.infer(request.inputs)
            except ClientError as error:
                failure = error
            done = time.monotonic_ns()
            if failure is None:
                size = sum(array.nbytes for array in answer.values())
                failure = self._check(answer, request)
            self.failed = failure is not None
            self._report(sent if due is None else due, sent, done, failure=failure, size=size)
        finally:
            self.node.in_flight -= 1

    def _check(self, answer: Mapping[str, NDArray[Any]], request: CheckedRequest) -> PerfError | None:
        try:
            check_answer(answer, request.expected, tolerance=self.node.options.tolerance)
        except PerfError as error:
            return error
        return None

    def _report(self, due: int, sent: int, done: int, *, failure: Exception | None, size: int = 0) -> None:
        outcome = RIGHT
        if failure is not None:
            outcome = one_line(f"{WRONG_ANSWER}: {failure}" if isinstance(failure, PerfError) else str(failure))
        self.node.record(due, sent, done, outcome)
        self.environment.events.request.fire(
            request_type=self.shown,
            name=self.node.prepared[self.protocol].model,
            response_time=(done - due) / 1e6,
            response_length=size,
            exception=failure,
            context={},
        )


class GrpcUser(InferenceUser):
    """Asks over gRPC at --grpc-url."""

    protocol = "grpc"
    shown = "gRPC"


class HttpUser(InferenceUser):
    """Asks over HTTP at --http-url."""

    protocol = "http"
    shown = "HTTP"


def protocols_of(user_classes: Iterable[type[User]], options: LoadOptions) -> list[str]:
    """The protocols that users of these classes speak, of those that the options allow."""
    spoken = {user_class.protocol for user_class in user_classes if issubclass(user_class, InferenceUser)}
    return sorted(spoken if options.protocol == "both" else spoken & {options.protocol})


def select_users(user_classes: Sequence[type[User]], options: LoadOptions) -> list[type[User]]:
    """The classes that take part: those of the protocol, and those that are not ours.

    Raises:
        LoadTestMisconfigured: no user speaks the protocol.
    """
    selected = [
        user_class
        for user_class in user_classes
        if not issubclass(user_class, InferenceUser) or options.protocol in ("both", user_class.protocol)
    ]
    if not selected:
        names = ", ".join(user_class.__name__ for user_class in user_classes)
        raise LoadTestMisconfigured(f"--protocol {options.protocol} leaves none of the users that were named: {names}")
    return selected
