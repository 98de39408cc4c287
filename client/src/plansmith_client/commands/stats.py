"""`plansmith stats`: a server's statistics of its models, once or as a live table."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plansmith_client.commands.options import JsonOption, TimeoutOption, UrlOption  # noqa: TC001
from plansmith_client.errors import ClientError, InvalidInput
from plansmith_client.faces.client import Client
from plansmith_client.protocol.statistics import Duration

if TYPE_CHECKING:
    from plansmith_client.protocol.statistics import ModelStatistics
    from plansmith_client.terminal import FittingTable, Terminal

__all__ = ["stats"]

_NOTHING = Duration(0, 0.0)
# Which of them goes first where a terminal is narrow: the highest.
_FIGURES = {"requests/s": 0, "rows/s": 2, "rows each": 4, "queue ms": 0, "compute ms": 0, "failed": 1, "cached": 5}


def stats(
    model: Annotated[str | None, typer.Argument(help="A model; by default all of them.")] = None,
    url: UrlOption = "localhost:8001",
    timeout: TimeoutOption = 10.0,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two measurements.")] = 1.0,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep measuring until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a server's statistics of its models: rates over an interval, or totals with --json.

    For example:

        plansmith stats --watch
        plansmith stats resnet50 --interval 10
    """
    from plansmith_client.terminal import Terminal  # noqa: PLC0415 - not for --help

    with Client(url, timeout=timeout) as client:
        if model:
            # A model that the server does not have is told by this, with those that it has.
            client.model(model).metadata  # noqa: B018
        read = client.model(model).statistics if model else client.statistics
        if as_json:
            if watch:
                raise InvalidInput("--json prints one document: leave out --watch, and run it again for another")
            entries = [_as_json(statistics) for statistics in read()]
            typer.echo(json.dumps({"url": url, "models": entries}))
        elif watch:
            _watch(Terminal(), read, interval)
        else:
            before, started = _by_version(read()), time.monotonic()
            time.sleep(interval)
            after, terminal = _by_version(read()), Terminal()
            terminal.print(_table(before, after, time.monotonic() - started))
            if after == before:
                terminal.print(f"No requests in {interval:g} s: --interval measures for longer, --json has the totals.")


def _watch(console: Terminal, read: Any, interval: float) -> None:
    from rich.console import Group  # noqa: PLC0415 - not needed for --json
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    before, started = _by_version(read()), time.monotonic()
    with Live(_table(before, before, 1.0), console=console, auto_refresh=False) as live:
        shown: Any = _table(before, before, 1.0)
        while True:
            time.sleep(interval)
            try:
                after, ended = _by_version(read()), time.monotonic()
            except ClientError as error:
                # The server may be restarting, and that may be why somebody watches it.
                live.update(Group(shown, Text(str(error), style="yellow")), refresh=True)
                continue
            shown = _table(before, after, ended - started)
            live.update(shown, refresh=True)
            before, started = after, ended


def _by_version(found: tuple[ModelStatistics, ...]) -> dict[tuple[str, str], ModelStatistics]:
    return {(statistics.name, statistics.version): statistics for statistics in found}


def _table(
    before: dict[tuple[str, str], ModelStatistics], after: dict[tuple[str, str], ModelStatistics], seconds: float
) -> FittingTable:
    from plansmith_client.terminal import Column, FittingTable  # noqa: PLC0415 - not needed for --json

    columns = [Column("model", "words"), Column("version", "name", spare=3)]
    columns += [Column(heading, spare=spare) for heading, spare in _FIGURES.items()]
    shown = []
    for key, now in sorted(after.items()):
        then = before.get(key)
        if then is None or then.inferences > now.inferences:
            # It was loaded in the meantime and counts from zero.
            then = replace(now, inferences=0, executions=0, success=_NOTHING, queue=_NOTHING, compute_infer=_NOTHING)
        requests = now.success.count - then.success.count
        rows = now.inferences - then.inferences
        executions = now.executions - then.executions
        cells = (
            now.name,
            now.version,
            f"{requests / seconds:,.1f}",
            f"{rows / seconds:,.1f}",
            f"{rows / executions:.1f}" if executions > 0 else "-",
            _milliseconds(now.queue, then.queue),
            _milliseconds(now.compute_infer, then.compute_infer),
            str(now.fail.count),
            str(now.cache_hit.count),
        )
        shown.append(cells)
    return FittingTable(columns, shown)


def _milliseconds(now: Duration, then: Duration) -> str:
    count = now.count - then.count
    return f"{(now.seconds - then.seconds) / count * 1000:.2f}" if count > 0 else "-"


def _as_json(statistics: ModelStatistics) -> dict[str, Any]:
    document = asdict(statistics)
    document["last_inference"] = statistics.last_inference and statistics.last_inference.isoformat()
    return document
