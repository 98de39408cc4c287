"""Leads a load test through Locust's events, for this process alone or for the workers of a master."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, cast

import gevent
import typer
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner

from plansmith_client.transports.addresses import Address
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.server_side import read_counters
from plansmith_perf.load.summary import summarize
from plansmith_perf.load.tally import Tally
from plansmith_perf.load.usage import Watch, server_processes
from plansmith_perf.locust.crew import TOLD, Local, Workers
from plansmith_perf.locust.node import why_not_prepared
from plansmith_perf.locust.options import PERCENTILES, LoadOptions, parse_options
from plansmith_perf.locust.outcome import (
    ADVICE,
    Outcome,
    describe_shape,
    headings,
    keeps_slo,
    latency_rows,
    load_of,
    make_result,
    summary,
)
from plansmith_perf.locust.shapes import ProfileShape, needs_shape
from plansmith_perf.locust.users import protocols_of, select_users
from plansmith_perf.results.documents import Usage
from plansmith_perf.results.writing import write_text

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.runners import Runner

    from plansmith_perf.locust.node import LoadNode, Prepared, Report

__all__ = ["Leader"]

_SUMMING_UP_SECONDS = 5.0
_POLL_SECONDS = 0.02
_LOOK_SECONDS = 1.0
_EXIT_FAILED, _EXIT_MISSED = 1, 3


class Leader:
    """Prepares a test, starts it on all processes at once, and sums up what they report."""

    def __init__(self, environment: Environment, runner: Runner, node: LoadNode) -> None:
        self._environment = environment
        self._runner = runner
        self._node = node
        self._crew: Workers | Local = (
            Workers(runner, self._receive, self._fail)
            if isinstance(runner, MasterRunner)
            else Local(node, self._receive)
        )
        # As the command line has picked them; the protocol picks among these.
        self._user_classes = list(environment.user_classes)
        self._stop_timeout = environment.stop_timeout
        self._tally = Tally()
        self._usages: list[Usage] = []
        self._launcher: gevent.Greenlet | None = None
        self._watch: Watch | None = None
        self._run = self._duration = math.inf
        self._began: float | None = None
        self._stopped = math.inf
        self._failed = self._cut_short = self._summing_up = False
        self._missing = ""
        self._outcome: Outcome | None = None
        events = environment.events
        events.test_start.add_listener(self._prepare)
        events.test_stopping.add_listener(self._finish)
        events.test_stop.add_listener(self._conclude)
        events.quitting.add_listener(self._quit)

    @property
    def is_running(self) -> bool:
        """Whether a test is going on."""
        return self._runner.state in (STATE_SPAWNING, STATE_RUNNING)

    @property
    def is_ending(self) -> bool:
        """Whether a test has stopped but not ended: Locust would take no notice of another one, or mix the two up."""
        return not self.is_running and (self._summing_up or self._runner.shape_greenlet is not None)

    def latency_table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of the latency so far: see `latency_rows`."""
        is_open_loop = bool(self._node.prepared) and self._node.options.is_open_loop
        return headings(PERCENTILES), latency_rows(self._tally, PERCENTILES, is_open_loop=is_open_loop)

    def arrange(self, options: LoadOptions) -> None:
        """Have Locust run the users and the shape that the options ask for; before it starts a test.

        Raises:
            LoadTestMisconfigured: no user speaks the protocol, or a result is asked for that cannot be.
        """
        selected = select_users(self._user_classes, options)
        protocols = protocols_of(selected, options)
        if options.result is not None and len(protocols) > 1:
            raise LoadTestMisconfigured("--result describes one protocol: give --protocol grpc or --protocol http")
        self._environment.user_classes = selected
        # Workers know every user, Locust keeps its own options from them, and the result is not theirs to write.
        vars(self._environment.parsed_options)[TOLD] = {
            "protocol": protocols[0] if len(protocols) == 1 else "both",
            "run_time": options.run_time,
            "result": "",
        }
        self._environment.shape_class = None
        # A shape is asked before the test has begun, and must not see the one before.
        self._began = None
        if needs_shape(options, headless=bool(vars(self._environment.parsed_options)["headless"])):
            shape = ProfileShape(options, self._elapsed, lambda: self._duration)
            shape.runner = self._runner
            self._environment.shape_class = shape

    def _elapsed(self) -> float | None:
        return None if self._began is None else time.monotonic() - self._began

    def _prepare(self, **_: Any) -> None:
        self._environment.process_exit_code = None
        self._tally, self._usages = Tally(), []
        self._run, self._began, self._stopped = time.time(), None, math.inf
        self._failed = self._cut_short = False
        self._missing = ""
        self._outcome = self._watch = None
        self._crew.expect()
        try:
            options = parse_options(vars(self._environment.parsed_options))
            protocols = protocols_of(self._environment.user_classes, options)
            self._duration = self._node.prepare(options, protocols)
        except Exception as error:  # noqa: BLE001 - Locust would log it, and wait for a load that never begins
            self._node.prepared = {}
            self._environment.stop_timeout = self._stop_timeout
            self._fail(*why_not_prepared(error))
            return
        # Users that a shape takes away finish their request; those that wait are gone at once.
        self._environment.stop_timeout = self._stop_timeout or options.timeout
        prepared = next(iter(self._node.prepared.values()), None)
        if prepared is not None:
            self._watch = _watch(prepared, options.model_version)
            self._launcher = gevent.spawn(self._launch, options, self._watch)

    def _launch(self, options: LoadOptions, watch: Watch) -> None:
        """Start once all have prepared, in open loop also once all users are there to send; then watch the server."""
        runner = self._runner
        while not self._crew.is_ready() or (
            options.is_open_loop and (runner.user_count < runner.target_user_count or not runner.user_count)
        ):
            gevent.sleep(_POLL_SECONDS)
        begin = self._crew.start(self._run, self._duration, in_open_loop=options.is_open_loop)
        self._began = time.monotonic() - (time.time() - begin)
        gevent.sleep(max(0.0, self._began + options.warmup - time.monotonic()))
        begun = time.monotonic_ns()
        while True:
            watch.look(time.monotonic_ns(), begun, sys.maxsize)
            gevent.sleep(_LOOK_SECONDS)

    def _receive(self, report: Report) -> None:
        # A late report of the test before is not counted to this one.
        if report.run == self._run:
            report.add_to(self._tally)
            if report.usage is not None:
                self._usages.append(report.usage)

    def _fail(self, message: str, exit_code: int) -> None:
        if self._failed:
            return
        self._failed = True
        self._environment.process_exit_code = exit_code
        options = self._environment.parsed_options
        headless = options is not None and options.headless
        if headless:
            # Below Locust's tables, which it prints though there is nothing in them.
            self._environment.events.quit.add_listener(lambda **_: typer.echo(f"Error: {message}", err=True))
        else:
            typer.echo(f"Error: {message}", err=True)
        # Not from within: the runner is just starting.
        gevent.spawn(self._runner.quit if headless else self._runner.stop)

    def _finish(self, **_: Any) -> None:
        self._stopped = time.monotonic()
        self._summing_up = True
        if self._launcher is not None:
            self._launcher.kill()
        if self._watch is not None:
            self._watch.finish()
        if self._began is None:
            self._node.finish()
        else:
            self._missing = self._crew.finish(self._node.options.timeout)

    def _conclude(self, **_: Any) -> None:
        self._summing_up = False
        if self._began is None or self._outcome is not None or self._watch is None:
            return
        options = self._node.options
        lasted = min(self._stopped - self._began, self._duration)
        is_gone = self._watch.before is not None and self._watch.after is None
        url = next(iter(self._node.prepared.values())).url
        interruption = f"the server at {url} is gone" if is_gone else self._missing
        # A run time without a shape is Locust's, and began before the load.
        exact = self._cut_short or self._environment.shape_class is not None
        if exact and math.isfinite(self._duration) and lasted < self._duration:
            interruption = "it was stopped before its time was over"
        seconds = max(0.0, lasted - options.warmup)
        measurement = summarize(
            self._tally,
            load_of(options, recorded_rate=self._node.recorded_rate),
            batch_size=options.batch_size,
            throughput=self._tally.per_second(seconds),
            watch=self._watch,
            warmup_seconds=min(options.warmup, lasted),
            seconds=seconds,
            percentiles=options.percentiles,
            complete=not interruption,
            client_usage=Usage(
                cpu_percent=sum(usage.cpu_percent for usage in self._usages),
                memory=sum(usage.memory for usage in self._usages),
                processes=len(self._usages),
            ),
            busiest=max((usage.cpu_percent for usage in self._usages), default=0.0),
            steady=options.load_shape == "constant",
            notes=describe_shape(options),
            advice=ADVICE,
        )
        self._outcome = Outcome(measurement, keeps_slo(options, measurement), interruption)
        # Where Locust's own tables go.
        logging.getLogger("locust.stats_logger").info("%s\n", "\n".join(summary(options, self._outcome, self._tally)))
        self._write(options, self._outcome)

    def _write(self, options: LoadOptions, outcome: Outcome) -> None:
        if options.result is None:
            return
        ((protocol, prepared),) = self._node.prepared.items()
        spoken = cast("Literal['grpc', 'http']", protocol)
        document = make_result(options, spoken, prepared, self._crew.size, outcome).model_dump_json(indent=2)
        try:
            write_text(options.result, f"{document}\n", "--result")
        except LoadTestMisconfigured as error:
            self._fail(str(error), _EXIT_FAILED)

    def _quit(self, **_: Any) -> None:
        self._cut_short = self._stopped == math.inf
        # A test that has just ended is summed up in another greenlet, and would go without its result.
        deadline = time.monotonic() + _SUMMING_UP_SECONDS
        while self._summing_up and time.monotonic() < deadline:
            gevent.sleep(_POLL_SECONDS)
        # Not only Locust's tables need the last answers, and it would decide on its exit code before they come.
        self._runner.quit()
        total = self._environment.stats.total
        if self._environment.process_exit_code is not None:
            return
        if total.num_failures or not total.num_requests:
            self._environment.process_exit_code = _EXIT_FAILED
        elif self._outcome is not None and self._outcome.slo_met is False:
            self._environment.process_exit_code = _EXIT_MISSED
        elif self._outcome is not None and (
            self._outcome.measurement.errors
            or self._outcome.interruption
            or (self._node.options.slo is not None and self._outcome.slo_met is None)
        ):
            self._environment.process_exit_code = _EXIT_FAILED


def _watch(prepared: Prepared, version: str) -> Watch:
    processes = server_processes(Address.parse(prepared.url))
    return Watch(server=processes, client=[], counters=lambda: read_counters(prepared.url, prepared.model, version))
