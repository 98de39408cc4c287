"""Locust users that ask any model of a running server, over gRPC and over HTTP, and check each answer.

Importing locust patches the whole process with gevent: import this module from a locustfile only.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
import gevent.event
from locust import User, events, task
from locust.exception import StopUser

from plansmith_client import Client, ClientError
from plansmith_perf.errors import LoadTestMisconfigured, PerfError
from plansmith_perf.requests import CheckedRequest, check_answer, checked_requests

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser
    from locust.env import Environment

__all__ = ["GrpcUser", "HttpUser"]


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Declare what a load test can be told; each option is also an environment variable and a field in the web UI."""
    group = parser.add_argument_group("plansmith")
    group.add_argument(
        "--model", env_var="PLANSMITH_MODEL", default="", help="Model to ask; needed where the server has several."
    )
    group.add_argument("--grpc-url", env_var="PLANSMITH_GRPC_URL", default="localhost:8001", help="[localhost:8001]")
    group.add_argument(
        "--http-url", env_var="PLANSMITH_HTTP_URL", default="http://localhost:8000", help="[http://localhost:8000]"
    )
    group.add_argument("--batch-size", type=int, default=1, help="Rows a request, for a model that batches. [1]")
    group.add_argument("--distinct-inputs", type=int, default=16, help="How many different requests to send. [16]")
    group.add_argument("--seed", type=int, default=0, help="Makes the inputs repeatable. [0]")
    group.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="Greatest difference of an answer under load, relative to the output's greatest value. [0.001]",
    )
    group.add_argument("--timeout", type=float, default=30.0, help="Seconds a request may take. [30]")


@events.quitting.add_listener
def exit_with_failure(environment: Environment, **_: Any) -> None:
    """Exit with 1 when a request failed, was answered wrongly, or when none was sent at all."""
    total = environment.stats.total
    if environment.process_exit_code is None and (total.num_failures or not total.num_requests):
        environment.process_exit_code = 1


@events.test_start.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Make the requests and ask for their answers before the first user sends; end the test if that fails."""
    runner: Any = environment.runner
    for user_class in environment.user_classes:
        if issubclass(user_class, InferenceUser):
            try:
                user_class.prepare(environment.parsed_options)
            except (ClientError, PerfError) as error:
                user_class.prepared = None
                environment.process_exit_code = error.exit_code
                print(f"Error: {error}", flush=True)  # noqa: T201 - the reader of a load test looks at its output
                # Not from within: the runner is just starting.
                gevent.spawn(runner.quit)
                return


@dataclass(frozen=True)
class Prepared:
    """What the users of one protocol share: the model's name, and what to send and expect."""

    model: str
    requests: tuple[CheckedRequest, ...]


class InferenceUser(User):
    """Sends one request after the other, in closed loop, each user with its own connection to the server."""

    abstract = True
    protocol: ClassVar[str]
    url_option: ClassVar[str]
    prepared: ClassVar[Prepared | None] = None

    @classmethod
    def prepare(cls, options: Any) -> None:
        """Make the requests of this protocol's users and ask the idle server for their answers.

        Raises:
            ClientError: the server is not there, does not have the model, or does not answer.
            LoadTestMisconfigured: the server has several models and none was picked.
        """
        with Client(getattr(options, cls.url_option), timeout=options.timeout) as client:
            model = client.model(options.model or _only_model(client))
            requests = checked_requests(
                model, count=options.distinct_inputs, batch_size=options.batch_size, seed=options.seed
            )
            cls.prepared = Prepared(model.name, requests)

    def on_start(self) -> None:
        """Connect."""
        if self.prepared is None:
            # The runner is about to stop everyone; Locust would log an exception of each user.
            gevent.event.Event().wait()
            raise StopUser
        options = self.environment.parsed_options
        self.requests = self.prepared.requests
        self.tolerance: float = options.tolerance
        self.client = Client(getattr(options, self.url_option), timeout=options.timeout)
        self.model = self.client.model(self.prepared.model)
        self.choose = random.Random(id(self)).choice  # noqa: S311 - which request comes next is no secret

    def on_stop(self) -> None:
        """Close the connection."""
        if self.prepared is not None:
            self.client.close()

    @task
    def infer(self) -> None:
        """Send one request, report its latency in milliseconds and check its answer."""
        request = self.choose(self.requests)
        failure: Exception | None = None
        size = 0
        started = time.perf_counter()
        try:
            answer = self.model.infer(request.inputs)
        except ClientError as error:
            failure = error
        milliseconds = (time.perf_counter() - started) * 1000
        if failure is None:
            size = sum(array.nbytes for array in answer.values())
            try:
                check_answer(answer, request.expected, tolerance=self.tolerance)
            except PerfError as error:
                failure = error
        self.environment.events.request.fire(
            request_type=self.protocol,
            name=self.model.name,
            response_time=milliseconds,
            response_length=size,
            exception=failure,
            context={},
        )


def _only_model(client: Client) -> str:
    names = sorted({status.name for status in client.models()})
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise LoadTestMisconfigured(f"the server has these models: {listed}; pick one with --model")
    return names[0]


class GrpcUser(InferenceUser):
    """Asks over gRPC at --grpc-url."""

    protocol = "gRPC"
    url_option = "grpc_url"


class HttpUser(InferenceUser):
    """Asks over HTTP at --http-url."""

    protocol = "HTTP"
    url_option = "http_url"
