"""Adds the options, the load shapes and the measurement to Locust."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any

import gevent
import typer
from flask import Response, jsonify, request
from locust import events
from locust.runners import WorkerRunner
from locust.util.timespan import parse_timespan

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.locust.leader import Leader
from plansmith_perf.locust.options import add_options, parse_options
from plansmith_perf.locust.users import InferenceUser
from plansmith_perf.locust.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locust.env import Environment
    from locust.runners import Runner
    from locust.web import WebUI

__all__ = ["install"]

_OTHER_NAMES = {"user_count": "num_users"}


def install() -> None:
    """Call this in a locustfile."""
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
    if web_ui is not None and web_ui.app is not None:
        web_ui.app.before_request(lambda: _check_form(environment, leader))


def _let_ctrl_c_end_the_main_greenlet() -> None:
    # Python raises KeyboardInterrupt wherever it is: in a user, with a traceback, or inside gRPC, which then hangs.
    hub = gevent.get_hub()

    def interrupt() -> None:
        # Whoever asks twice does not want to wait.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        hub.handle_system_error(KeyboardInterrupt, KeyboardInterrupt())

    gevent.signal_handler(signal.SIGINT, interrupt)


def _check_form(environment: Environment, leader: Leader) -> Response | None:
    """Answer a form that makes no sense with a sentence, before Locust starts a test with it."""
    if request.method != "POST" or not request.path.endswith("/swarm") or leader.is_running:
        return None
    if leader.is_ending:
        return _refusal(environment, "the last test is still ending: start this one in a moment")
    try:
        leader.arrange(parse_options(_filled_in(vars(environment.parsed_options), request.form)))
    except (LoadTestMisconfigured, ValueError, ArgumentTypeError) as error:
        return _refusal(environment, str(error))
    return None


def _refusal(environment: Environment, message: str) -> Response:
    return jsonify({"success": False, "message": message, "host": environment.host})


def _filled_in(options: Mapping[str, Any], form: Mapping[str, str]) -> dict[str, Any]:
    """The options with the fields of the form in place, each of the type that it has."""
    filled = dict(options)
    for field, text in form.items():
        name = _OTHER_NAMES.get(field, field)
        if name == "run_time":
            # Locust too keeps the last one where the field is empty.
            filled[name] = parse_timespan(text) if text else options[name]
        elif name == "num_users":
            filled[name] = int(text)
        elif isinstance(filled.get(name), str | int | float) and not isinstance(filled[name], bool):
            filled[name] = type(filled[name])(text)
    return filled
