"""`plansmith load` and `plansmith unload`: what a server with explicit model control has loaded."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from plansmith_client.commands.options import JsonOption, UrlOption  # noqa: TC001
from plansmith_client.errors import InvalidInput
from plansmith_client.faces.client import Client
from plansmith_client.visible import visible

__all__ = ["load", "unload"]

_ModelArgument = Annotated[str, typer.Argument(help="The model's name.")]
# Models are large, so this is longer than for an inference.
_LoadTimeout = Annotated[float, typer.Option("--timeout", help="Seconds that it may take.")]


def load(
    model: _ModelArgument,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A configuration to use instead of the repository's, as JSON."),
    ] = None,
    url: UrlOption = "localhost:8001",
    timeout: _LoadTimeout = 300.0,
    *,
    as_json: JsonOption = False,
) -> None:
    """Load or reload a model. The server has to be started with --control explicit.

    For example:

        plansmith load resnet50
        plansmith load resnet50 --config config.json
    """
    document = _read(config)
    with Client(url, timeout=timeout) as client:
        client.load_model(model, config=document)
        versions = client.model(model).metadata.versions
    if as_json:
        typer.echo(json.dumps({"url": url, "model": model, "versions": versions}))
    else:
        typer.echo(visible(f"{model} is loaded at {url}: version {', '.join(versions)}"))


def unload(
    model: _ModelArgument,
    url: UrlOption = "localhost:8001",
    timeout: _LoadTimeout = 300.0,
    *,
    dependents: Annotated[bool, typer.Option("--dependents", help="Unload the models of an ensemble too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Unload a model; requests in flight are finished first. The server has to be started with --control explicit.

    For example:

        plansmith unload resnet50
        plansmith unload pipeline --dependents
    """
    with Client(url, timeout=timeout) as client:
        client.unload_model(model, dependents=dependents)
    typer.echo(json.dumps({"url": url, "model": model}) if as_json else visible(f"{model} is unloaded at {url}"))


def _read(config: Path | None) -> str | None:
    if config is None:
        return None
    try:
        text = config.read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        raise InvalidInput(f"{config} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{config} is not JSON ({error}): write the configuration as a JSON object") from error
    return text
