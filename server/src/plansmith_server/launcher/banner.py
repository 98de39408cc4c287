"""What `plansmith serve` shows once the server answers."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from plansmith_server.launcher.ports import is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from plansmith_server.launcher.endpoint import ModelState
    from plansmith_server.launcher.process import TritonServer

__all__ = ["describe", "exposure_warning", "show"]

STATE_STYLES = {"READY": "green", "UNAVAILABLE": "red"}


def describe(server: TritonServer, models: Sequence[ModelState]) -> dict[str, Any]:
    """The facts of a started server, for `--json`."""
    return {
        "plansmith_server": version("plansmith-server"),
        "triton": server.version,
        "repository": str(server.options.repository.resolve()),
        "http_url": server.http_url,
        "grpc_url": server.grpc_url,
        "metrics_url": server.metrics_url,
        "config_name": server.config_name,
        "pid": server.pid,
        "log": str(server.log_path),
        "seconds_to_start": round(server.seconds_to_start, 3),
        "models": [asdict(model) for model in models],
    }


def show(console: Console, server: TritonServer, models: Sequence[ModelState]) -> None:
    """Print the models, where they are served and how long the start took."""
    console.print(
        f"[bold]plansmith {version('plansmith-server')}[/] · Triton {server.version} · "
        f"{escape(str(server.options.repository))}"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "version", "state", "configuration"):
        table.add_column(heading, no_wrap=heading != "model", overflow="fold")
    for model in models:
        state = Text(model.state.lower(), style=STATE_STYLES.get(model.state, "yellow"))
        table.add_row(Text(model.name), model.version or "-", state, model.config)
    if models:
        console.print(table)
    else:
        console.print("no model is loaded")
    for model in models:
        if model.reason:
            console.print(Text.assemble((f"{model.name}: ", "red"), model.reason), soft_wrap=True)
    places = {"gRPC": server.grpc_url, "HTTP": server.http_url, "metrics": server.metrics_url}
    console.print(" · ".join(f"{name} {url}" for name, url in places.items() if url), soft_wrap=True)
    console.print(f"ready in {server.seconds_to_start:.1f} s; Ctrl-C stops it")


def exposure_warning(address: str) -> str | None:
    """What to say about listening on `address`; None where only this machine can reach it."""
    if is_loopback(address):
        return None
    return (
        f"other machines can reach this server on {address}, without any protection. It is for development and CI:"
        " in production, use a current Triton container"
    )
