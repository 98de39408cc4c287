"""`plansmith models`: the models of a server."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from plansmith_client.commands.options import JsonOption, TimeoutOption, UrlOption  # noqa: TC001
from plansmith_client.errors import InvalidInput, ModelNotFound, ModelNotReady
from plansmith_client.faces.client import Client
from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plansmith_client.protocol.metadata import ModelMetadata, ModelStatus
    from plansmith_client.tensors import TensorSpec

__all__ = ["models"]

_READY = "READY"


def models(url: UrlOption = "localhost:8001", timeout: TimeoutOption = 30.0, *, as_json: JsonOption = False) -> None:
    """List the models of a server.

    For example:

        plansmith models
        plansmith models --url http://localhost:8000 --json
    """
    with Client(url, timeout=timeout) as client:
        found = sorted(client.models(), key=_by_name_and_version)
        described = [(status, _metadata(client, status)) for status in found]
    if as_json:
        typer.echo(json.dumps({"url": url, "models": [_as_json(*pair) for pair in described]}))
    elif described:
        _show(described)
    else:
        typer.echo(visible(f"The server at {url} has no models"))


def _by_name_and_version(status: ModelStatus) -> tuple[str, int, str]:
    # Of digits without end Python makes no number.
    return status.name, int(status.version[:18]) if status.version.isdecimal() else 0, status.version


def _metadata(client: Client, status: ModelStatus) -> ModelMetadata | None:
    if status.state != _READY:
        return None
    try:
        version = status.version if status.version.isdecimal() else ""
        return client.model(status.name, version).metadata
    except (InvalidInput, ModelNotFound, ModelNotReady):
        # It was unloaded between the two requests.
        return None


def _as_json(status: ModelStatus, metadata: ModelMetadata | None) -> dict[str, Any]:
    document: dict[str, Any] = status._asdict()
    if metadata is not None:
        document["platform"] = metadata.platform
        document["max_batch_size"] = metadata.max_batch_size
        document["inputs"] = [asdict(spec) for spec in metadata.inputs]
        document["outputs"] = [asdict(spec) for spec in metadata.outputs]
    return document


def _show(described: Iterable[tuple[ModelStatus, ModelMetadata | None]]) -> None:
    from rich.text import Text  # noqa: PLC0415 - not needed for --json

    from plansmith_client.terminal import Column, FittingTable, Terminal  # noqa: PLC0415

    rows, reasons = [], []
    for status, metadata in described:
        inputs, outputs = ("", "") if metadata is None else (_listed(metadata.inputs), _listed(metadata.outputs))
        state = Text(status.state.lower() or "not loaded", style="green" if status.state == _READY else "yellow")
        rows.append((status.name, status.version, state, inputs, outputs))
        if status.reason:
            reasons.append(f"{status.name}: {status.short_reason}")
    columns = (
        *(Column("model", "words"), Column("version", "name", spare=1), Column("state", "name")),
        *(Column("inputs", "words"), Column("outputs", "words")),
    )
    Terminal().print(FittingTable(columns, rows, notes=reasons))


def _listed(specs: Iterable[TensorSpec]) -> str:
    return "\n".join(f"{spec.name} {spec}{' (optional)' if spec.optional else ''}" for spec in specs)
