"""Adds the options, the load shapes and the measurement to Locust."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import gevent
import typer
from locust import events
from locust.runners import WorkerRunner

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.locust.leader import Leader
from plansmith_perf.locust.options import add_options, parse_options
from plansmith_perf.locust.page import set_up_page
from plansmith_perf.locust.users import InferenceUser
from plansmith_perf.locust.worker import Worker

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.runners import Runner
    from locust.web import WebUI

__all__ = ["install"]


def install() -> None:
    """Call this in a locustfile."""
    with contextlib.suppress(ValueError):
        # `plansmith locust` has added them before.
        events.init_command_line_parser.remove_listener(add_options)
    events.init_command_line_parser.add_listener(add_options)
    events.init.add_listener(_begin)


def _begin(environment: Environment, runner: Runner, web_ui: WebUI | None, **_: Any) -> None:
    # The loop's clock stood still during the imports, and would shorten the first run by as much.
    gevent.get_hub().loop.update_now()
    _let_ctrl_c_end_the_main_greenlet()
    node = InferenceUser.node
    if isinstance(runner, WorkerRunner):
        Worker(environment, runner, node)
        return
    leader = Leader(environment, runner, node)
    try:
        leader.arrange(parse_options(vars(environment.parsed_options)))
    except LoadTestMisconfigured as error:
        typer.echo(f"Error: {error}", err=True)
        runner.quit()
        sys.exit(error.exit_code)
    if web_ui is not None:
        set_up_page(web_ui, environment, leader)


def _let_ctrl_c_end_the_main_greenlet() -> None:
    # Python raises KeyboardInterrupt wherever it is: in a user, with a traceback, or inside gRPC, which then hangs.
    hub = gevent.get_hub()

    def interrupt() -> None:
        # Whoever asks twice does not want to wait.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        hub.handle_system_error(KeyboardInterrupt, KeyboardInterrupt())

    gevent.signal_handler(signal.SIGINT, interrupt)
