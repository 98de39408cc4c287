"""A worker's side of a distributed load test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locust.runners import STATE_RUNNING, STATE_SPAWNING

from plansmith_perf.locust.crew import FINISH, READY, REPORT, START, TOLD
from plansmith_perf.locust.node import Share, why_not_prepared
from plansmith_perf.locust.options import parse_options
from plansmith_perf.locust.users import protocols_of

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.rpc import Message
    from locust.runners import WorkerRunner

    from plansmith_perf.locust.node import LoadNode

__all__ = ["Worker"]


class Worker:
    """Prepares, starts and finishes when the master says so, and reports to it."""

    def __init__(self, environment: Environment, runner: WorkerRunner, node: LoadNode) -> None:
        self._environment = environment
        self._runner = runner
        self._node = node
        runner.register_message(START, self._start, concurrent=True)
        runner.register_message(FINISH, self._finish, concurrent=True)
        events = environment.events
        events.test_start.add_listener(self._prepare)
        events.test_stopping.add_listener(self._wait_for_answers)
        events.report_to_master.add_listener(self._add_report)
        events.quitting.add_listener(self._quit)
        if runner.worker_state in (STATE_SPAWNING, STATE_RUNNING):
            # A worker is connected before it is set up, and a test may have begun in between.
            self._prepare()

    def _prepare(self, **_: Any) -> None:
        said = {"error": "", "exit_code": 0}
        try:
            given = vars(self._environment.parsed_options)
            options = parse_options(given | given[TOLD])
            self._node.prepare(options, protocols_of(self._environment.user_classes, options))
        except Exception as error:  # noqa: BLE001 - the master waits for what this worker says
            self._node.prepared = {}
            # Its users have nothing to finish.
            self._environment.stop_timeout = 0.0
            reason, exit_code = why_not_prepared(error)
            said = {"error": f"worker {self._runner.worker_index}: {reason}", "exit_code": exit_code}
        self._runner.send_message(READY, said)

    def _start(self, msg: Message, **_: Any) -> None:
        self._node.start(Share(**msg.data["share"]), msg.data["duration"])

    def _finish(self, **_: Any) -> None:
        self._node.finish()
        self._send_report()

    def _wait_for_answers(self, **_: Any) -> None:
        self._node.finish()
        # Nothing is left to wait for, and Locust would wait as long in any case before the worker is ready again.
        self._environment.stop_timeout = 0.0

    def _quit(self, **_: Any) -> None:
        if not self._node.finishing:
            self._node.finish()
            self._send_report()

    def _send_report(self) -> None:
        # As Locust does every three seconds: its own figures travel with it, and come in time.
        data: dict[str, Any] = {}
        self._environment.events.report_to_master.fire(client_id=self._runner.client_id, data=data)
        self._runner.send_message("stats", data)

    def _add_report(self, data: dict[str, Any], **_: Any) -> None:
        report = self._node.report()
        if report is not None:
            data[REPORT] = report.model_dump()
