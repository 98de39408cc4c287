"""The processes that send: this one alone, or the workers of a master."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gevent
from locust.runners import STATE_MISSING

from plansmith_perf.locust.node import Report, Share

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.rpc import Message
    from locust.runners import MasterRunner

    from plansmith_perf.locust.node import LoadNode

__all__ = ["FINISH", "READY", "REPORT", "START", "TOLD", "Local", "Workers"]

# Messages between master and workers, and the keys of ours in Locust's reports and options.
READY, START, FINISH = "plansmith_ready", "plansmith_start", "plansmith_finish"
REPORT, TOLD = "plansmith", "plansmith_told"
_POLL_SECONDS = 0.02
_REPORT_SECONDS = 3.0
# Until a start has reached all workers.
_LEAD_SECONDS = 0.3
# For a last report to arrive, once a worker has no more answers to wait for.
_LAST_REPORT_SECONDS = 5.0


class Local:
    """This process alone; what is done and told, see `Workers`."""

    size = 1

    def __init__(self, node: LoadNode, receive: Callable[[Report], None]) -> None:
        self._node = node
        self._receive = receive
        self._collector: gevent.Greenlet | None = None

    def expect(self) -> None:
        """Nobody else is to prepare."""

    def is_ready(self) -> bool:
        """The leader has prepared."""
        return True

    def start(self, run: float, duration: float, *, in_open_loop: bool) -> float:  # noqa: ARG002 - as of `Workers`
        """Begin to send; returns when, in seconds since the epoch."""
        begin = time.time()
        self._node.start(Share(run, begin, 0, 1), duration)
        self._collector = gevent.spawn(self._collect)
        return begin

    def finish(self, timeout: float) -> str:  # noqa: ARG002 - the node knows how long a request may take
        """Wait for the last answers, and hand on the last report; nothing is missing."""
        self._node.finish()
        if self._collector is not None:
            self._collector.kill()
        self._hand_on()
        return ""

    def _collect(self) -> None:
        while True:
            gevent.sleep(_REPORT_SECONDS)
            self._hand_on()

    def _hand_on(self) -> None:
        report = self._node.report()
        if report is not None:
            self._receive(report)


class Workers:
    """The workers of this master."""

    def __init__(
        self, runner: MasterRunner, receive: Callable[[Report], None], fail: Callable[[str, int], None]
    ) -> None:
        self._runner = runner
        self._receive = receive
        self._fail = fail
        self._expected: set[str] = set()
        self._sending: set[str] = set()
        self._finished: set[str] = set()
        self._late: tuple[dict[str, Any], float] | None = None
        self.size = 0
        runner.register_message(READY, self._is_prepared)
        runner.environment.events.worker_report.add_listener(self._take_report)

    def expect(self) -> None:
        """A test begins: whoever is here now is expected to prepare."""
        self._expected = set(self._present())
        self._sending = set()
        self._finished = set()
        self._late = None

    def is_ready(self) -> bool:
        """Whether all have prepared."""
        return not self._expected & set(self._present())

    def start(self, run: float, duration: float, *, in_open_loop: bool) -> float:
        """Have all begin to send; returns when, in seconds since the epoch. In open loop those without users do not."""
        begin = time.time() + _LEAD_SECONDS
        present = self._present()
        taking_part = [name for name in present if self._runner.clients[name].user_count or not in_open_loop]
        self.size = len(taking_part)
        self._late = {"run": run, "begin": begin, "position": self.size, "of": self.size}, duration
        for name in present:
            position = taking_part.index(name) if name in taking_part else self.size
            self._send(name, self._late[0] | {"position": position}, duration)
        gevent.sleep(_LEAD_SECONDS)
        return begin

    def finish(self, timeout: float) -> str:
        """Have all wait for their last answers and report; returns what is missing, "" for nothing."""
        self._late = None
        for name in self._sending & set(self._present()):
            self._runner.send_message(FINISH, None, name)
        deadline = time.monotonic() + timeout + _LAST_REPORT_SECONDS
        while (self._sending - self._finished) & set(self._present()) and time.monotonic() < deadline:
            gevent.sleep(_POLL_SECONDS)
        lost = len(self._sending - self._finished)
        return f"the last report of {lost} of {len(self._sending)} workers is missing" if lost else ""

    def _send(self, name: str, share: dict[str, Any], duration: float) -> None:
        self._sending.add(name)
        self._runner.send_message(START, {"share": share, "duration": duration}, name)

    def _present(self) -> list[str]:
        return sorted(name for name, client in self._runner.clients.items() if client.state != STATE_MISSING)

    def _is_prepared(self, msg: Message, **_: Any) -> None:
        self._expected.discard(msg.node_id)
        if msg.data["error"]:
            self._fail(msg.data["error"], msg.data["exit_code"])
        elif self._late is not None:
            # It has joined a test that is going on: its users take part, but the schedule has been shared out.
            self._send(msg.node_id, *self._late)

    def _take_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if data.get(REPORT) is not None:
            report = Report.model_validate(data[REPORT])
            self._receive(report)
            if report.final:
                self._finished.add(client_id)
