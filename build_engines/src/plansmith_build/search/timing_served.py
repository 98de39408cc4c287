"""How fast candidates are as they will be served: by a real Triton on this machine, asked over gRPC by many at once."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from plansmith_build.search.served_answers import problem_with_answers
from plansmith_build.search.timing import Speed
from plansmith_build.serving import as_served, serving
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.search.served_answers import Exchange
    from plansmith_build.serving import Entry, Serving
    from plansmith_client import Model

__all__ = ["CLIENTS", "ServingFailed", "time_served"]

CLIENTS = 8
# Even: every other round goes the other way round.
ROUNDS = 4
SECONDS_PER_ROUND = 0.5


class ServingFailed(Exception):
    """The server did not start or went away; the text says why, and what was measured in process stands."""


def time_served(
    entries: Sequence[Entry], expected: Sequence[Sequence[Exchange]], folder: Path, *, rows: int
) -> list[Speed | None]:
    """How fast each candidate is on one server, in interleaved rounds; None for one that does not answer as it should.

    `CLIENTS` threads send the requests over gRPC again and again, in turn, each the next one as soon as its last is
    answered, so that the server can put requests together as its configuration says. Beside the first candidate that
    answers, with which it is compared, each is loaded alone: more at once would take memory for all.

    Args:
        entries: the candidates, all with the same inputs.
        expected: what each is asked, the same requests for all, and has to answer before it is timed.
        folder: where a repository can be made; on the same file system as the candidates' files.
        rows: how many rows each request has.

    Raises:
        ServingFailed: the server does not start, or goes away.
    """
    from plansmith_server.errors import ServerError  # noqa: PLC0415 - an optional distribution

    names = [f"candidate_{number}" for number in range(len(entries))]
    speeds: list[Speed | None] = [None] * len(entries)
    try:
        with serving(dict(zip(names, entries, strict=True)), folder / "served") as server, ExitStack() as stack:

            def loaded(number: int) -> AbstractContextManager[bool]:
                return _loaded(server, names[number], entries[number], expected[number])

            def rate(number: int) -> float:
                requests = [as_served(each.request, entries[number].config.input) for each in expected[number]]
                return _rate(server.client.model(names[number]), requests, rows)

            numbers = iter(range(len(entries)))
            base = next((number for number in numbers if stack.enter_context(loaded(number))), None)
            of_base: list[float] = []
            for number in numbers:
                with loaded(number) as answers:
                    if answers and base is not None:
                        orders = ((base, number), (number, base)) * (ROUNDS // 2)
                        rounds = [{one: rate(one) for one in order} for order in orders]
                        rates, others = ([turn[one] for turn in rounds] for one in (number, base))
                        of_base += others
                        speeds[number] = Speed.of_rounds(rates, others) if all(rates) and all(others) else None
            if base is not None:
                of_base = of_base or [rate(base)]
                speeds[base] = Speed.of_rounds(of_base, of_base) if all(of_base) else None
    except (ClientError, ServerError) as error:
        raise ServingFailed(str(error)) from error
    return speeds


@contextmanager
def _loaded(server: Serving, name: str, entry: Entry, expected: Sequence[Exchange]) -> Iterator[bool]:
    """A candidate while the context lasts; gives whether it answers as it should."""
    with server.loaded(name) as problem:
        # More than one: what the first request makes ready is not timed.
        asked = expected if len(expected) > 1 else [*expected] * 2
        yield not (problem or problem_with_answers(server.client, name, entry, asked))


def _rate(model: Model, requests: Sequence[Arrays], rows: int) -> float:
    """Rows a second while all clients are at work; 0 where one of them got an error."""
    counts = [0] * CLIENTS
    # One for all clients: however long each request takes, all of them are sent equally often.
    turns = itertools.cycle(requests)
    failed = threading.Event()
    started = time.perf_counter()
    deadline = started + SECONDS_PER_ROUND

    def ask(number: int) -> None:
        try:
            while time.perf_counter() < deadline:
                model.infer(next(turns))
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
