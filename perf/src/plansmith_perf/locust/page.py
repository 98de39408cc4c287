"""Locust's web page: who may ask it, what its form may set, and a tab with the latency to the microsecond."""

from __future__ import annotations

import ipaddress
import socket
from argparse import ArgumentTypeError
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Response, jsonify, request
from locust.argument_parser import ui_extra_args_dict
from locust.util.timespan import parse_timespan

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.locust.options import parse_options
from plansmith_perf.locust.users import InferenceUser

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from locust.env import Environment
    from locust.web import WebUI

    from plansmith_perf.locust.leader import Leader

__all__ = ["set_up_page"]

# Locust takes every option of its command line from a form, files that it writes at the end among them.
_FIELDS_OF_LOCUST = {"user_count", "spawn_rate", "run_time", "host", "user_classes", "shape_class", "profile"}
# Its page cannot leave fields out; users of ours are not told where to send by a host, nor by a profile.
_HIDDEN = "<style>.MuiFormControl-root:has(input[name=host], input[name=profile]) { display: none }</style></head>"
_TAB = "latency"
_OTHER_NAMES = {"user_count": "num_users"}


def set_up_page(web_ui: WebUI, environment: Environment, leader: Leader) -> None:
    """Guard the page and its form, and add the tab; before the page is served."""
    app = web_ui.app
    if app is None:
        return
    given = vars(environment.parsed_options)
    proxies = {name.strip().lower() for name in given["page_host"].split(",") if name.strip()}
    # Fields in the order of the options instead of the alphabet's.
    vars(app.json)["sort_keys"] = False

    def check() -> Response | None:
        reason = _why_foreign(str(given["web_host"]).lower(), proxies)
        if reason:
            return Response(f"{reason}\n", status=403, mimetype="text/plain")
        if request.method == "POST" and request.path.endswith("/swarm"):
            return _check_form(environment, leader)
        return None

    # Locust's own table rounds to milliseconds; its page has room for tables of others.
    columns, _ = leader.latency_table()
    structure = [{"key": f"column{number}", "title": title} for number, title in enumerate(columns)]
    web_ui.template_args["extended_tabs"] = [{"title": "Latency (ms)", "key": _TAB}]
    web_ui.template_args["extended_tables"] = [{"key": _TAB, "structure": structure}]

    def complete(response: Response) -> Response:
        if request.endpoint == "locust.index" and all(
            issubclass(user, InferenceUser) for user in environment.user_classes
        ):
            response.set_data(response.get_data(as_text=True).replace("</head>", _HIDDEN))
        if request.path.endswith("/stats/requests") and response.status_code == HTTPStatus.OK:
            _, rows = leader.latency_table()
            data = [{f"column{number}": cell for number, cell in enumerate(row)} for row in rows]
            response.set_data(app.json.dumps({**response.get_json(), "extended_stats": [{"key": _TAB, "data": data}]}))
        return response

    app.before_request(check)
    app.after_request(complete)
    # Locust asks for a host where users have none, and shows it in its report.
    InferenceUser.host = f"{given['grpc_url']} {given['http_url']}"


def _why_foreign(own_name: str, proxies: Collection[str]) -> str:
    """Why a request may come from another site's page in the user's browser; "" where it does not.

    A browser says in `Origin` which page sends a request. A site that has pointed its name here sends that name
    as `Host`; addresses cannot be made to point elsewhere. Programs send no Origin, and are served.
    """
    host = request.headers.get("Host", "")
    name = (urlsplit(f"//{host}").hostname or "").lower()
    if host and not (_is_address(name) or _is_local(name) or name == own_name or name in proxies):
        return f"this page is not served under the name {name!r}: use its address, or allow the name with --page-host"
    origin = request.headers.get("Origin")
    if origin is not None:
        sender = urlsplit(origin)
        if sender.netloc.lower() != host.lower() and sender.hostname not in proxies:
            return f"requests from pages of {origin[:100]!r} are refused: only this page may direct the load"
    elif request.method not in ("GET", "HEAD") and request.headers.get("Sec-Fetch-Site", "none") not in (
        "same-origin",
        "none",
    ):
        return "requests from pages of other sites are refused: only this page may direct the load"
    return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_local(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost") or name == socket.gethostname().lower()


def _check_form(environment: Environment, leader: Leader) -> Response | None:
    """Answer a form that makes no sense with a sentence, before Locust starts a test with it."""
    unknown = sorted(set(request.form) - _FIELDS_OF_LOCUST - set(ui_extra_args_dict()))
    if unknown:
        return _refusal(
            environment, f"{unknown[0][:100]!r} cannot be set on this page: give it when you start Locust, if it exists"
        )
    if leader.is_running:
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
