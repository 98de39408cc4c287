"""How fast candidates are as they will be served: by a real Triton on this machine, asked over gRPC by many at once."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from plansmith_build.search.served_answers import problem_with_answers
from plansmith_build.search.timing import Speed
from plansmith_build.serving import as_served, serving
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.search.served_answers import Exchange
    from plansmith_build.serving import Entry
    from plansmith_client import Model

__all__ = ["CLIENTS", "ServingFailed", "time_served"]

CLIENTS = 8
# Even: every other round goes the other way round.
ROUNDS = 4
SECONDS_PER_ROUND = 0.6


class ServingFailed(Exception):
    """The server did not start or went away; the text says why, and what was measured in process stands."""


def time_served(
    entries: Sequence[Entry], expected: Sequence[Exchange], folder: Path, *, rows: int
) -> list[Speed | None]:
    """How fast each candidate is on one server, in interleaved rounds; None for one that does not answer as it should.

    `CLIENTS` threads send the same request again and again over gRPC, each as soon as its last one is answered, so
    that the server can put requests together as its configuration says.

    Args:
        entries: the candidates, all with the same inputs. The first that answers is what the others are compared with,
            round by round.
        expected: what each is asked, and has to answer before it is timed.
        folder: where a repository can be made; on the same file system as the candidates' files.
        rows: how many rows the request has.

    Raises:
        ServingFailed: the server does not start, or goes away.
    """
    from plansmith_server.errors import ServerError  # noqa: PLC0415 - an optional distribution

    named = {f"candidate_{number}": entry for number, entry in enumerate(entries)}
    rates: dict[int, list[float]] = {}
    try:
        with serving(named, folder / "served") as server:
            for number, (name, entry) in enumerate(named.items()):
                # Twice: what the first request makes ready is not timed.
                if not problem_with_answers(server.client, name, entry, [expected[number]] * 2):
                    rates[number] = []
            for order in ([*rates], [*rates][::-1]) * (ROUNDS // 2):
                for number in order:
                    model = server.client.model(f"candidate_{number}")
                    request = as_served(expected[number].request, entries[number].config.input)
                    rates[number].append(_rate(model, request, rows))
    except (ClientError, ServerError) as error:
        raise ServingFailed(str(error)) from error
    rates = {number: measured for number, measured in rates.items() if all(measured)}
    base = next(iter(rates.values()), [])
    return [Speed.of_rounds(rates[number], base) if number in rates else None for number in range(len(entries))]


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
