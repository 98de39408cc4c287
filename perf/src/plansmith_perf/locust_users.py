"""Locust users that ask any model of a running server, over gRPC and over HTTP, and check each answer.

Importing locust patches the whole process with gevent: import this module from a locustfile only.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, ClassVar

import gevent.lock
from locust import User, events, task
from locust.exception import StopUser

from plansmith_client import Client, ClientError
from plansmith_perf.errors import LoadTestMisconfigured, PerfError
from plansmith_perf.requests import CheckedRequest, check_answer, checked_requests

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser
    from locust.env import Environment

__all__ = ["GrpcUser", "HttpUser"]

BYTES_PER_MEBIBYTE = 2**20


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


class InferenceUser(User):
    """Sends one request after the other, in closed loop, each with its own connection to the server."""

    abstract = True
    protocol: ClassVar[str]
    url_option: ClassVar[str]
    # The requests and the answers to check are made once a process and protocol, before its first user sends.
    _prepared: ClassVar[dict[str, tuple[CheckedRequest, ...]]] = {}
    _preparing: ClassVar[gevent.lock.RLock] = gevent.lock.RLock()

    def on_start(self) -> None:
        """Connect, and make the requests unless another user has."""
        options = self.environment.parsed_options
        self.url: str = getattr(options, self.url_option)
        self.client = Client(self.url, timeout=options.timeout)
        try:
            self.model = self.client.model(options.model or self._only_model())
            with self._preparing:
                if self.protocol not in self._prepared:
                    self._prepared[self.protocol] = checked_requests(
                        self.model,
                        count=options.distinct_inputs,
                        batch_size=options.batch_size,
                        seed=options.seed,
                    )
        except (ClientError, PerfError) as error:
            self._stop_test(error)
        self.requests = self._prepared[self.protocol]
        self.tolerance: float = options.tolerance
        self.choose = random.Random(id(self)).choice  # noqa: S311 - which request comes next is no secret

    def on_stop(self) -> None:
        """Close the connection."""
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

    def _only_model(self) -> str:
        names = sorted({status.name for status in self.client.models()})
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise LoadTestMisconfigured(f"the server at {self.url} has these models: {listed}; pick one with --model")
        return names[0]

    def _stop_test(self, error: ClientError | PerfError) -> None:
        """A load test that cannot begin ends with the reason, once, and not with a row of failures."""
        runner = self.environment.runner
        if self.environment.process_exit_code is None:
            self.environment.process_exit_code = error.exit_code
            print(f"Error: {error}", flush=True)  # noqa: T201 - the reader of a load test looks at its output
        if runner is not None:
            runner.quit()
        raise StopUser


class GrpcUser(InferenceUser):
    """Asks over gRPC at --grpc-url."""

    protocol = "gRPC"
    url_option = "grpc_url"


class HttpUser(InferenceUser):
    """Asks over HTTP at --http-url."""

    protocol = "HTTP"
    url_option = "http_url"
