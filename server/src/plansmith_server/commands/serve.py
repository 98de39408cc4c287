"""`plansmith serve`: Triton over a model repository until it is stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from plansmith_server.errors import StartFailed
from plansmith_server.launcher.banner import describe, exposure_warning, show
from plansmith_server.launcher.chosen_machine import machine_warning
from plansmith_server.launcher.logs import Level, LogRecord
from plansmith_server.launcher.options import Control, ServerOptions
from plansmith_server.launcher.process import TritonServer, how_it_ended
from plansmith_server.launcher.production import refuse_unfit
from plansmith_server.launcher.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.status import Status

__all__ = ["serve"]

WATCH_SECONDS = 0.2
SEGMENTATION_FAULT = (
    "Possible causes: a gRPC client cancelled a request just as it was answered, which can crash Triton 2.51"
    " (triton-inference-server/server#8034, fixed in newer containers): allow longer timeouts or use HTTP; an HTTP"
    " request with thousands of nested brackets; a fault in one of Triton's libraries"
)


class _Stopped(BaseException):
    """The first Ctrl-C or SIGTERM: leave every `with` block on the way out, as KeyboardInterrupt does."""


def serve(
    *,
    repository: Annotated[
        Path, typer.Option("--repository", "-r", help="The model repository: a folder with one folder for each model.")
    ] = Path("model_repository"),
    host: Annotated[
        str, typer.Option(help="The address to listen on; by default only this machine can reach it.")
    ] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="Port for HTTP; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Port for gRPC; 0 takes a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port for Prometheus metrics; 0 takes a free one.")] = 8002,
    config_name: Annotated[
        str,
        typer.Option(help="Which configs/NAME.pbtxt models use where they have it: NAME, auto (gpu or cpu), or none."),
    ] = "auto",
    model: Annotated[
        list[str] | None, typer.Option(help="Load only this model (implies --control explicit); may be repeated.")
    ] = None,
    control: Annotated[
        Control | None,
        typer.Option(
            help="How models are loaded: none (all at start), explicit (by clients), poll (on changes in the folder)."
        ),
    ] = None,
    poll: Annotated[
        int | None, typer.Option(help="Seconds between looks for changes in the repository (implies --control poll).")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail unless every model loads.")] = False,
    start_timeout: Annotated[float, typer.Option(help="Seconds to wait for the models to load.")] = 300.0,
    stop_timeout: Annotated[
        float, typer.Option(help="Seconds that requests in flight have to finish when the server stops.")
    ] = 10.0,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="The least severe log lines to show.", case_sensitive=False),
    ] = "warning",
    log_file: Annotated[Path | None, typer.Option(help="File for Triton's complete log.")] = None,
    open_admin: Annotated[
        bool,
        typer.Option(
            "--open-admin",
            help="Let everyone who reaches the HTTP port, web pages in a browser here too, use shared memory, logging,"
            " trace and (with --control explicit) load models, which means running code.",
        ),
    ] = False,
    production_check: Annotated[
        bool,
        typer.Option(
            "--production-check",
            help="Refuse to start (exit code 3) if the server is not fit for others behind a proxy: code in models,"
            " queues without a bound, open ports.",
        ),
    ] = False,
    allow_code: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A model whose code --production-check lets pass; may be repeated."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document when ready.")] = False,
    triton_arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments for tritonserver, after --.", show_default=False)
    ] = None,
) -> None:
    """Serve a model repository with Triton.

    Ctrl-C or SIGTERM stops the server and all its processes; a second one kills them.

    For example:

        plansmith serve
        plansmith serve -r model_repository --model resnet50 --http-port 0
        plansmith serve -- --log-verbose=1
    """
    options = ServerOptions(
        repository=repository,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        config_name=config_name,
        control=_settle_control(control, poll, model),
        models=tuple(model or ()),
        poll_seconds=5 if poll is None else poll,
        strict=strict,
        log_file=log_file,
        start_timeout=start_timeout,
        stop_timeout=stop_timeout,
        open_admin=open_admin,
        triton_arguments=tuple(triton_arguments or ()),
    )
    if production_check:
        refuse_unfit(options.plan(), allowed_code=allow_code or ())
    elif allow_code:
        raise typer.BadParameter(
            "needs --production-check, without which all code is allowed", param_hint="--allow-code"
        )
    console, messages = Terminal(highlight=False), Terminal(stderr=True, highlight=False)
    running = Event()
    with messages.status("starting Triton") as status:
        server = TritonServer(options, on_log=_log_printer(messages, Level[log_level.upper()], status, running))
        try:
            _catch_signals(server)
            with server:
                status.stop()
                _announce(server, console, messages, json_output=json_output)
                running.set()
                while server.is_running:
                    Event().wait(WATCH_SECONDS)
                _refuse_early_end(server)
        except _Stopped:
            messages.print("stopped")


def _announce(server: TritonServer, console: Console, messages: Console, *, json_output: bool) -> None:
    models = server.models()
    warning = exposure_warning(server.address)
    if warning:
        messages.print(f"[yellow]Warning:[/] {warning}", soft_wrap=True)
    for model in filter(lambda model: model.is_ready, models):
        said = machine_warning(server.options.repository / model.name, model.config)
        if said:
            messages.print(f"[yellow]Warning:[/] {escape(said)}", soft_wrap=True)
    if json_output:
        print(json.dumps(describe(server, models)), flush=True)  # noqa: T201 - the document that was asked for
    else:
        show(console, server, models)


def _refuse_early_end(server: TritonServer) -> None:
    code = server.returncode
    if server.failure:
        raise StartFailed(f"{server.failure}; start it again, with --log-file to keep its log")
    hint = f". {SEGMENTATION_FAULT}" if code == -signal.SIGSEGV else ""
    raise StartFailed(f"Triton ended by itself with {how_it_ended(code)}: use --log-file to keep its log{hint}")


def _log_printer(messages: Console, level: Level, status: Status, running: Event) -> Callable[[LogRecord], None]:
    def print_record(record: LogRecord) -> None:
        # What is loaded while others are served was published or asked for by somebody.
        changed = running.is_set() and record.message.startswith(("loading: ", "successfully loaded"))
        if record.level >= level or changed:
            messages.print(str(record), markup=False, soft_wrap=True)
        if record.message.startswith("loading: "):
            status.update(record.message.rpartition(":")[0].replace("loading: ", "loading ", 1))

    return print_record


def _catch_signals(server: TritonServer) -> None:
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) > 1:
            server.kill()
            return
        raise _Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _settle_control(control: Control | None, poll: int | None, models: list[str] | None) -> Control:
    implied: Control = "poll" if poll is not None else "explicit" if models else "none"
    if control is not None and implied not in ("none", control):
        option = "--poll" if implied == "poll" else "--model"
        raise typer.BadParameter(f"{option} needs --control {implied}, not {control}", param_hint="--control")
    return control or implied
