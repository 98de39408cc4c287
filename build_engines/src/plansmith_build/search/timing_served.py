"""How fast candidates are as they will be served: by a real Triton on this machine, asked over gRPC by many at once."""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

from plansmith_build.serving import as_served, serving
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.serving import Entry
    from plansmith_client import Model

__all__ = ["CLIENTS", "ServingFailed", "time_served"]

CLIENTS = 8
ROUNDS = 2
SECONDS_PER_ROUND = 1.0


class ServingFailed(Exception):
    """The server did not start or went away; the text says why, and what was measured in process stands."""


def time_served(entries: Sequence[Entry], request: Arrays, folder: Path, *, rows: int) -> list[float]:
    """Rows a second of each candidate, measured in turn on one server; 0 for one that the server does not load.

    `CLIENTS` threads send the same request again and again over gRPC, each as soon as its last one is answered, so
    that the server can put requests together as its configuration says.

    Args:
        entries: the candidates, all with the same inputs.
        request: what each client sends, as the graph takes it.
        folder: where a repository can be made; on the same file system as the candidates' files.
        rows: how many rows the request has.

    Raises:
        ServingFailed: the server does not start, or goes away.
    """
    from plansmith_server.errors import ServerError  # noqa: PLC0415 - an optional distribution

    named = {f"candidate_{number}": entry for number, entry in enumerate(entries)}
    request = as_served(request, entries[0].config.input)
    rates: list[list[float]] = [[] for _ in entries]
    try:
        with serving(named, folder / "served") as server:
            models = [server.client.model(name) for name in named]
            usable = [number for number, model in enumerate(models) if _answers(model, request)]
            for _ in range(ROUNDS):
                for number in usable:
                    rates[number].append(_rate(models[number], request, rows))
    except (ClientError, ServerError) as error:
        raise ServingFailed(str(error)) from error
    return [statistics.median(measured) if measured else 0.0 for measured in rates]


def _answers(model: Model, request: Arrays) -> bool:
    try:
        for _ in range(2):
            model.infer(request)
    except ClientError:
        return False
    return True


def _rate(model: Model, request: Arrays, rows: int) -> float:
    """Rows a second while all clients are at work; 0 where one of them got an error."""
    counts = [0] * CLIENTS
    failed = threading.Event()
    started = time.perf_counter()
    deadline = started + SECONDS_PER_ROUND

    def ask(number: int) -> None:
        try:
            while time.perf_counter() < deadline:
                model.infer(request)
                counts[number] += 1
        except ClientError:
            failed.set()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    return 0.0 if failed.is_set() else sum(counts) * rows / elapsed
