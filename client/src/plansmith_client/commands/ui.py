"""`plansmith ui`: a local page to try a served model."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from plansmith_client.commands.options import JsonOption, TimeoutOption, UrlOption  # noqa: TC001
from plansmith_client.commands.ui_server import PageServer
from plansmith_client.faces.client import Client

__all__ = ["ui"]


def ui(
    model: Annotated[str | None, typer.Argument(help="The model to open; by default the first one.")] = None,
    url: UrlOption = "localhost:8001",
    timeout: TimeoutOption = 30.0,
    *,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Try a served model in a browser: an input, the answer, the configuration, the statistics.

    The page is served on this machine alone, to whoever has the address with its token, until Ctrl-C.

    For example:

        plansmith ui
        plansmith ui digits --url http://localhost:8000 --port 8080
    """
    with Client(url, timeout=timeout, cast=True) as client:
        # What is wrong with the server is said here, before a page is opened.
        _ = client.model(model).metadata if model else client.models()
        with PageServer(client, port, model) as server:
            typer.echo(json.dumps({"address": server.address}) if as_json else f"Open {server.address}")
            server.serve_forever()
